"""Flip a bit where DVC keeps what stages wrote, fetch that as people do, and read it."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dvc.repo import Repo

from stages.common.errors import UserError

BY_DVC, BY_READER, HARMLESS, MISSED = "noticed by DVC", "noticed by the reader", "harmless", "missed"


class Store:
    """Where DVC keeps objects by their keys: its cache, or a folder that is a remote."""

    def __init__(self, folder: Path):
        self.folder = folder

    def read(self, key: str) -> bytes:
        return (self.folder / key).read_bytes()

    def write(self, key: str, content: bytes) -> None:
        """As on a disk that decays: the same file, its times and permissions with it."""
        path = self.folder / key
        known = path.stat()
        path.chmod(0o644)
        with open(path, "r+b") as file:
            file.write(content)
        path.chmod(known.st_mode)
        os.utime(path, ns=(known.st_atime_ns, known.st_mtime_ns))


class Bucket(Store):
    """A bucket of a server that speaks S3, `client` of boto3."""

    def __init__(self, client: Any, bucket: str, prefix: str):
        self.client, self.bucket, self.prefix = client, bucket, prefix

    def read(self, key: str) -> bytes:
        return self.client.get_object(Bucket=self.bucket, Key=f"{self.prefix}/{key}")["Body"].read()

    def write(self, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=f"{self.prefix}/{key}", Body=content)


def flip(
    repo: Repo, out: Path, store: Store, remote: str | None, read: Callable[[Path], object], chance: random.Random
) -> str:
    """What becomes of a bit that flips in one of an output's objects; all is as before afterwards.

    Args:
        out: the output, a file or a folder.
        store: what the bit flips in.
        remote: the remote's name, from which `out` is then pulled, gone from the cache; None: the cache, whence it is
            checked out.
        read: our reader, which raises a UserError if it notices.

    Returns:
        Whether DVC or the reader ended in an error, or else whether what was fetched is what was written.
    """
    written, names = content(out), keys(repo, out)
    cached = {Path(repo.cache.local.path) / name: b"" for name in names}
    key = chance.choice(names)
    sound = store.read(key)
    damaged, bit = bytearray(sound), chance.randrange(len(sound) * 8)
    damaged[bit // 8] ^= 1 << bit % 8
    store.write(key, bytes(damaged))
    forget(out)
    if remote:
        for path in cached:
            cached[path] = path.read_bytes()
            path.unlink()
    try:
        if remote:
            repo.pull([str(out)], remote=remote)
        else:
            repo.checkout([str(out)], force=True)
    except Exception:  # DVC has no one class for a folder's list that is damaged
        end = BY_DVC
    else:
        try:
            read(out)
            end = HARMLESS if content(out) == written else MISSED
        except UserError:
            end = BY_READER
    if remote:
        for path, sound_object in cached.items():
            path.unlink(missing_ok=True)
            path.write_bytes(sound_object)
            path.chmod(0o444)
    store.write(key, sound)
    forget(out)
    for name, bytes_written in written.items():
        path = out / name if name != "." else out
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes_written)
    repo.drop_data_index()  # it would remember a damaged list
    repo._reset()
    return end


def keys(repo: Repo, out: Path) -> list[str]:
    """The keys of an output's objects; of a folder its list is one."""
    (found,) = (each for each in repo.index.outs if Path(each.fs_path) == out)
    hashes = [found.hash_info.value]
    if found.hash_info.isdir:
        hashes += [info.value for _, _, info in found.get_obj()]
    return [f"{value[:2]}/{value[2:]}" for value in hashes]


def content(out: Path) -> dict[str, bytes]:
    files = [out] if out.is_file() else sorted(path for path in out.rglob("*") if path.is_file())
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def forget(out: Path) -> None:
    shutil.rmtree(out) if out.is_dir() else out.unlink(missing_ok=True)
