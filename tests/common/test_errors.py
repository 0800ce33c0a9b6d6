import errno
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from stages.common.errors import UserError, run
from stages.common.files import atomic_file

ROOT = Path(__file__).parents[2]


def ending(error):
    """The exit status of a stage that raises `error`."""
    def main():
        if error is not None:
            raise error

    with pytest.raises(SystemExit) as exit_:
        run(main)
    return exit_.value.code


def test_a_good_end_is_status_0(capsys):
    assert ending(None) == 0
    assert capsys.readouterr() == ("", "")


def test_a_users_mistake_is_one_message_and_status_1(capsys):
    assert ending(UserError("dpo.beta: [/] 0: [bold] is too small")) == 1
    out, err = capsys.readouterr()
    assert (out, err) == ("", "error: dpo.beta: [/] 0: [bold] is too small\n")


def test_a_long_message_is_not_wrapped(capsys):
    ending(UserError("word " * 100))
    assert capsys.readouterr().err.count("\n") == 1


def test_a_full_disk_is_a_users_matter(capsys):
    assert ending(OSError(errno.ENOSPC, "No space left on device", "data/scores.parquet")) == 1
    err = capsys.readouterr().err
    assert "data/scores.parquet: no space left on the disk" in err and "run the same command again" in err


FULL = Path("/dev/full")  # on Linux: whatever is written there meets a full disk


def written_by_torch(part):
    raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")  # on a full disk


WRITERS = {
    "Parquet": lambda part: pl.DataFrame({"a": range(1000)}).lazy().sink_parquet(part),
    "CSV": lambda part: pl.DataFrame({"a": range(1000)}).write_csv(part), "text": lambda part: part.write_text("x"),
    "torch": written_by_torch,
}


@pytest.mark.skipif(not FULL.exists(), reason="no device that is always full")
@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_one_line_whatever_writes(tmp_path, capsys, writer):
    def main():
        with atomic_file(tmp_path / "out") as part:
            part.unlink()
            part.symlink_to(FULL)
            WRITERS[writer](part)

    with pytest.raises(SystemExit, match="1"):
        run(main)
    said = f"error: {tmp_path / 'out'}: no space left on the disk; free some and run the same command again\n"
    assert capsys.readouterr().err == said
    assert not list(tmp_path.iterdir())

    def without_a_file():
        WRITERS[writer](FULL)

    with pytest.raises(SystemExit, match="1"):
        run(without_a_file)
    assert "no space left on the disk" in capsys.readouterr().err


@pytest.mark.parametrize("error", [
    FileNotFoundError(errno.ENOENT, "No such file or directory", "log.csv"),
    PermissionError(errno.EACCES, "Permission denied", "log.csv"),
    IsADirectoryError(errno.EISDIR, "Is a directory", "log.csv"),
])
def test_a_file_that_cannot_be_opened_is_named(error, capsys):
    assert ending(error) == 1
    assert f"error: log.csv: {error.strerror}" in capsys.readouterr().err


def test_ctrl_c_is_status_130(capsys):
    assert ending(KeyboardInterrupt()) == 130
    assert "run the same command again to go on" in capsys.readouterr().err


@pytest.mark.parametrize("error", [ValueError("ours"), OSError(errno.EIO, "Input/output error", "x"), KeyError("x")])
def test_a_defect_keeps_its_traceback(error):
    with pytest.raises(type(error)):
        run(lambda: (_ for _ in ()).throw(error))


@pytest.mark.parametrize(("body", "status"), [
    ("raise UserError('log.csv: line 3')", 1), ("raise KeyboardInterrupt", 130), ("pass", 0),
])
def test_a_process_ends_without_a_traceback(body, status):
    program = f"from stages.common.errors import UserError, run\ndef main():\n    {body}\nrun(main)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == status and "Traceback" not in done.stderr
    assert ("log.csv: line 3" in done.stderr) == (status == 1)
