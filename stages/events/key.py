"""The secret key with which ids of a log become pseudonyms: who has no key cannot try ids until one fits.

It is made where a real log is first read, and kept beside the user's cache, outside the repository. The same key gives
the same pseudonyms, splits and dvc.lock; so a team shares the file, and nobody else may have it.
"""

import hashlib
import os
import re
import secrets
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from stages.common.console import console
from stages.common.errors import UserError
from stages.common.files import cache_folder
from stages.common.params import read_yaml

VARIABLE = "BEHAVIORLM_KEY"
"""Names another file with a key."""

NO_KEY = "none"
"""Stands for the check of a key where ids are no secret."""

_CHECK_FILE = "key_check.txt"
_BYTES = 32
_KEY = re.compile(rf"([0-9a-fA-F]{{{2 * _BYTES}}})(?:\s+([0-9a-f]{{8}}))?")


@dataclass(frozen=True)
class Key:
    """A key.

    Attributes:
        check: eight digits that tell keys apart. They follow from the key alone, which is random: they help nobody to
            find it, or an id.
        is_new: whether it was made just now.
    """

    secret: bytes = field(repr=False)
    path: Path
    is_new: bool

    @property
    def check(self) -> str:
        return _check(self.secret)


def read_key() -> Key:
    """The key of `$BEHAVIORLM_KEY`, a file, else the user's own, made if there is none.

    A file holds the key's 64 hexadecimal digits and, in those made here, its check.

    Raises:
        UserError: the file that is named is absent, or a file holds no whole key.
    """
    if named := os.environ.get(VARIABLE):
        path, is_new = Path(named).expanduser(), False
    else:
        path = cache_folder() / "secret" / "key"
        is_new = not path.exists() and _make(path)
    try:
        found = _KEY.fullmatch(path.read_text(encoding="ascii").strip())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file, and {VARIABLE} names it; copy the key there, or unset {VARIABLE}: the "
                        "key beside your cache is taken then") from None
    except UnicodeDecodeError:
        found = None
    except OSError as error:
        raise UserError(f"{path}: the key cannot be read ({error.strerror}); it must be a file that you may "
                        "read") from None
    if found is None or (found[2] and found[2] != _check(bytes.fromhex(found[1]))):
        raise UserError(f"{path}: no whole key: {2 * _BYTES} hexadecimal digits are needed (and the check behind them, "
                        "if there, must be theirs); bring back the file from whoever shares it. With another key all "
                        "ids and splits change")
    return Key(bytes.fromhex(found[1]), path, is_new)


def say(key: Key, lock: Path) -> None:
    """Say that a key was just made, or that it is not the one of the events that stand in `lock`, a dvc.lock."""
    if key.is_new:
        console.print(f"ids are hashed with a new secret key, {key.path}. Keep a copy: with another key all ids and "
                      "splits change. A team shares this one file; nobody else may have it", soft_wrap=True)
    outs = read_yaml(lock)["stages"].get("ingest", {}).get("outs", []) if lock.exists() else []
    locked = {Path(out["path"]).name: out.get("md5") for out in outs}.get(_CHECK_FILE)
    ours, none = (hashlib.md5(check_line(check).encode(), usedforsecurity=False).hexdigest()
                  for check in (key.check, NO_KEY))
    if locked not in (None, ours, none):
        console.print(f"ids are hashed with another key (check {key.check}) than those of the events in {lock}: all "
                      f"ids and splits change. To keep them, put the team's key file at {key.path}, then `dvc repro "
                      "-f ingest`", soft_wrap=True)


def check_line(check: str) -> str:
    """What stands in key_check.txt."""
    return f"{check}\n"


def _make(path: Path) -> bool:
    """Write a new key, unless another process is faster: then its key counts, for both. Says whether this one wrote."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    (path.parent / ".gitignore").write_text("*\n", encoding="ascii")  # wherever the cache is
    secret = secrets.token_bytes(_BYTES)
    handle, part = tempfile.mkstemp(prefix=".key.", dir=path.parent)  # nobody else may read it
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(f"{secret.hex()} {_check(secret)}\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(part, path)  # whole or not at all, and never over another
    except FileExistsError:
        return False
    except OSError as error:  # a file system without links, for instance
        raise UserError(f"{path}: a key cannot be made here ({error.strerror}); write what `python -c 'import secrets; "
                        f"print(secrets.token_hex({_BYTES}))'` prints into a file that only you can read, and name it "
                        f"in {VARIABLE}") from None
    finally:
        os.unlink(part)
    return True


def _check(secret: bytes) -> str:
    return hashlib.blake2b(b"which key", key=secret, digest_size=4).hexdigest()
