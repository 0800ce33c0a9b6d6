"""The secret key of pseudonyms: made once, kept to oneself, shared as a file, never taken when it is damaged."""

import hashlib
import itertools
import stat
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.common.errors import UserError
from stages.common.hashing import pseudonym
from stages.events import key as keys
from stages.events.key import Key, check_line, read_key, say
from tests.events.helpers import ROOT

HEX = "00112233445566778899aabbccddeeff" * 2


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.delenv("BEHAVIORLM_KEY")
    monkeypatch.setenv("BEHAVIORLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_key_is_made_once_for_its_owner_alone(cache):
    first, again = read_key(), read_key()
    assert (first.is_new, again.is_new) == (True, False)
    assert first.secret == again.secret and len(first.secret) == 32
    assert first.path == cache / "secret" / "key"
    assert stat.S_IMODE(first.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(first.path.parent.stat().st_mode) == 0o700
    assert {file.name for file in first.path.parent.iterdir()} == {"key", ".gitignore"}
    first.path.unlink()
    assert read_key().secret != first.secret


def test_git_does_not_see_it_wherever_the_cache_is(cache):
    read_key()
    subprocess.run(["git", "init", "-q", cache.parent], check=True)
    status = subprocess.run(["git", "status", "--porcelain", "-uall"], cwd=cache.parent, check=True,
                            capture_output=True, text=True)
    assert status.stdout == ""


def test_processes_that_begin_together_get_one_key(cache):
    program = "from stages.events.key import read_key; key = read_key(); print(key.check, key.is_new)"
    together = [subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
                for _ in range(4)]
    said = [process.communicate()[0].split() for process in together]
    assert len({check for check, _ in said}) == 1
    assert sorted(is_new for _, is_new in said) == ["False", "False", "False", "True"]


def test_whoever_is_slower_takes_the_key_that_is_there(cache, monkeypatch):
    link = keys.os.link

    def late(part, path):
        path.write_text(HEX)
        link(part, path)

    monkeypatch.setattr(keys.os, "link", late)
    key = read_key()
    assert (key.secret.hex(), key.is_new) == (HEX, False)
    assert {file.name for file in key.path.parent.iterdir()} == {"key", ".gitignore"}


def test_without_links_the_message_says_what_to_do(cache, monkeypatch):
    def fail(part, path):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(keys.os, "link", fail)
    with pytest.raises(UserError, match=r"cannot be made here.*secrets\.token_hex\(32\).*BEHAVIORLM_KEY"):
        read_key()


def test_another_file_may_be_named_and_is_never_made(tmp_path, monkeypatch):
    path = tmp_path / "team"
    monkeypatch.setenv("BEHAVIORLM_KEY", str(path))
    with pytest.raises(UserError, match=r"team: no such file, and BEHAVIORLM_KEY names it"):
        read_key()
    assert not path.exists()
    for text in (HEX, f"{HEX.upper()}\r\n", f"\n{HEX} {Key(bytes.fromhex(HEX), path, False).check}\n"):
        path.write_text(text)
        assert read_key() == Key(bytes.fromhex(HEX), path, False)


@pytest.mark.parametrize("content", [
    b"", b"\n", b"\0" * 73, HEX[:-1].encode(), HEX[:32].encode(), f"{HEX}0".encode(), f"{HEX} 00000000".encode(),
    f"{HEX} {HEX}".encode(), HEX.replace("f", "g").encode(), b"\xff\xfe" + HEX.encode("utf-16-le"),
])
def test_a_damaged_key_is_refused_and_not_shown(tmp_path, monkeypatch, content):
    (tmp_path / "key").write_bytes(content)
    monkeypatch.setenv("BEHAVIORLM_KEY", str(tmp_path / "key"))
    with pytest.raises(UserError, match="key: no whole key: 32 hexadecimal digits|no whole key") as error:
        read_key()
    assert HEX[:16] not in str(error.value)


def test_any_flipped_bit_of_a_key_made_here_is_noticed(cache, monkeypatch):
    path, secret = read_key().path, read_key().secret
    whole = path.read_bytes()
    for place, bit in itertools.product(range(len(whole)), range(8)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << bit)]) + whole[place + 1:])
        try:
            assert read_key().secret == secret  # in white space, or a letter's case
        except UserError as error:
            assert "no whole key" in str(error)
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        try:
            assert read_key().secret == secret
        except UserError as error:
            assert "no whole key" in str(error)


@given(st.binary(min_size=32, max_size=32), st.text(min_size=1))
def test_pseudonyms_depend_on_the_key_and_the_check_on_nothing_else(secret, user):
    user = user.encode("utf-8", "replace").decode()
    keyed = hashlib.blake2b(user.encode(), key=secret, digest_size=8).digest()
    assert pseudonym(user, secret) == int.from_bytes(keyed, "little") != pseudonym(user)
    assert len(Key(secret, ROOT, False).check) == 8
    assert secret.hex() not in repr(Key(secret, ROOT, False))


def lock_of(tmp_path, check):
    md5 = hashlib.md5(check_line(check).encode()).hexdigest()
    (tmp_path / "dvc.lock").write_text(
        "schema: '2.0'\nstages:\n  ingest:\n    outs:\n    - path: data/events.parquet\n      md5: 00\n"
        f"    - path: data/counts/key_check.txt\n      hash: md5\n      md5: {md5}\n")
    return tmp_path / "dvc.lock"


def test_what_is_said_of_a_key(tmp_path, capsys):
    def said(lock, is_new=False):
        say(Key(bytes.fromhex(HEX), tmp_path / "key", is_new), lock)
        return capsys.readouterr().err

    ours = Key(bytes.fromhex(HEX), tmp_path, False).check
    assert said(tmp_path / "absent") == said(lock_of(tmp_path, ours)) == said(lock_of(tmp_path, "none")) == ""
    (tmp_path / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    assert said(tmp_path / "dvc.lock") == ""
    assert "new secret key, " in said(tmp_path / "absent", is_new=True)
    other = said(lock_of(tmp_path, "01234567"))
    assert f"another key (check {ours})" in other and "dvc repro -f ingest" in other
    assert HEX not in other
