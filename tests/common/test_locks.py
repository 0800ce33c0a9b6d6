"""One run at a time: the second waits with a word and goes on; a killed one holds nobody up."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stages.common import locks
from stages.common.locks import alone

ROOT = Path(__file__).parents[2]
HOLDS = (
    "import sys; from pathlib import Path; from stages.common.locks import alone\n"
    "with alone(Path(sys.argv[1]), 'does this'):\n"
    "    print('has it', flush=True); sys.stdin.readline()\n"
    "print('gave it back', flush=True)\n"
)


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock until it reads a line, or is killed."""
    process = subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path / "a.lock")], cwd=ROOT, text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == "has it\n"
    yield process
    process.kill()
    process.communicate()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(locks, "_SECONDS_BETWEEN_TRIES", 0.01)


def test_nobody_is_waited_for_where_nobody_is(tmp_path, capsys):
    with alone(tmp_path / "deep" / "a.lock", "does this"):
        assert (tmp_path / "deep" / "a.lock").exists()
    assert capsys.readouterr().err == "" and list((tmp_path / "deep").iterdir()) == []


def test_a_second_run_waits_says_for_whom_and_goes_on(tmp_path, holder, capsys, monkeypatch):
    monkeypatch.setattr(locks, "_SECONDS_BETWEEN_LINES", 0.05)
    asked = []

    def ask():
        asked.append(1)
        if len(asked) == 20:
            holder.stdin.write("\n")
            holder.stdin.flush()

    with alone(tmp_path / "a.lock", "does this", ask):
        assert holder.stdout.readline() == "gave it back\n", "it had ended before"
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith(f"waiting for another run that does this (process {holder.pid} on ")
    assert said[1].startswith("still waiting, after ") and said[-1].startswith("it has ended, after ")
    assert list(tmp_path.iterdir()) == []


def test_a_killed_run_holds_nobody_up(tmp_path, holder, capsys):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "a.lock").exists()
    with alone(tmp_path / "a.lock", "does this"):
        assert str(os.getpid()) in (tmp_path / "a.lock").read_text()
    assert capsys.readouterr().err == "" and list(tmp_path.iterdir()) == []


def test_an_error_in_the_block_gives_the_lock_back(tmp_path):
    for _ in range(2):
        with pytest.raises(RuntimeError), alone(tmp_path / "a.lock", "does this"):
            raise RuntimeError


@pytest.mark.parametrize("error", [OSError(errno.ENOLCK, "none"), OSError(errno.ENOSYS, "none"),
                                   OSError(errno.EOPNOTSUPP, "none"), NotImplementedError()])
def test_where_the_disk_knows_no_locks_it_says_so_and_goes_on(tmp_path, monkeypatch, capsys, error):
    def acquire(self, **given):
        raise error

    monkeypatch.setattr(locks.FileLock, "acquire", acquire)
    with alone(tmp_path / "a.lock", "does this"):
        pass
    assert "is on a disk without locks: start no other run that does this" in " ".join(capsys.readouterr().err.split())


def test_a_folder_that_may_not_be_written_to_is_an_error(tmp_path, monkeypatch):
    def acquire(self, **given):
        raise PermissionError(errno.EACCES, "no", str(tmp_path))

    monkeypatch.setattr(locks.FileLock, "acquire", acquire)
    with pytest.raises(PermissionError), alone(tmp_path / "a.lock", "does this"):
        pass
