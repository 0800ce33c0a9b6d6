import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stages.common.files import (
    DIGITS, atomic_file, atomic_folder, cache_folder, fingerprint, read_json, sha256, write_json,
)

ROOT = Path(__file__).parents[2]
OLD, NEW = "old content", "new content"


def write(path, text):
    """Write `text` as a file, or into a folder's one file."""
    (path / "inside" if path.is_dir() else path).write_text(text, encoding="utf-8")


def read(path):
    return (path / "inside" if path.is_dir() else path).read_text(encoding="utf-8")


@pytest.fixture(params=[atomic_file, atomic_folder])
def atomic(request):
    return request.param


@pytest.fixture
def place(tmp_path, atomic):
    """Where an output stands, with old content there."""
    path = tmp_path / "outs" / "out"
    (path if atomic is atomic_folder else path.parent).mkdir(parents=True)
    write(path, OLD)
    return path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_new_content_appears_when_the_block_ends(atomic, place):
    with atomic(place) as part:
        write(part, NEW)
        assert read(place) == OLD
        assert part.parent == place.parent, "a rename across disks is a copy"
    assert read(place) == NEW and names(place.parent) == ["out"]


def test_an_error_leaves_the_old_content_and_no_rest(atomic, place):
    with pytest.raises(RuntimeError), atomic(place) as part:
        write(part, NEW)
        raise RuntimeError
    assert read(place) == OLD and names(place.parent) == ["out"]


def test_folders_above_are_made(atomic, tmp_path):
    with atomic(tmp_path / "a" / "b" / "c") as part:
        write(part, NEW)
    assert read(tmp_path / "a" / "b" / "c") == NEW


def test_a_link_is_replaced_and_not_written_through(atomic, place, tmp_path):
    cached = tmp_path / "cached"
    place.rename(cached)
    place.symlink_to(cached)
    with atomic(place) as part:
        write(part, NEW)
    assert not place.is_symlink()
    assert (read(place), read(cached)) == (NEW, OLD)


def test_results_can_be_read_by_others(atomic, place):
    with atomic(place) as part:
        write(part, NEW)
    assert place.stat().st_mode & 0o044 == 0o044


def test_a_kill_in_the_middle_leaves_the_old_content(atomic, place):
    program = (
        "import sys, time; from pathlib import Path\n"
        f"from stages.common.files import {atomic.__name__}\n"
        f"with {atomic.__name__}(Path(sys.argv[1])) as part:\n"
        "    (part / 'inside' if part.is_dir() else part).write_text('half')\n"
        "    print('written', flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(place)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "written\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert read(place) == OLD
    with atomic(place) as part:
        write(part, NEW)
    assert read(place) == NEW and names(place.parent) == ["out"], "the next run clears what the killed one left"


def test_two_that_write_the_same_both_end_and_the_last_one_stays(atomic, place):
    with atomic(place) as one:
        write(one, "one")
        with atomic(place) as other:
            write(other, "other")
        assert read(place) == "other" and one.exists(), "it is still being written"
    assert read(place) == "one" and names(place.parent) == ["out"]


def test_what_a_killed_run_had_begun_within_what_it_had_begun_is_cleared_too(tmp_path):
    for name in (".out.12345678.part", "..out.12345678.part.abcdefgh.part"):
        (tmp_path / name).touch()
    with atomic_file(tmp_path / "out") as part:
        write(part, NEW)
    assert names(tmp_path) == ["out"]


def test_a_file_in_the_making_is_not_cleared_by_one_whose_name_begins_the_same(tmp_path):
    with atomic_file(tmp_path / "sft.json") as one:
        write(one, NEW)
        with atomic_file(tmp_path / "sft") as other:
            write(other, OLD)
    assert names(tmp_path) == ["sft", "sft.json"]


def test_json_keeps_order_letters_and_digits(tmp_path):
    content = {"z": 0.1 + 0.2, "a": ["β", None], "n": 10**20}
    write_json(tmp_path / "x.json", content)
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert read_json(tmp_path / "x.json") == content and list(json.loads(text)) == ["z", "a", "n"]
    assert "β" in text and "0.30000000000000004" in text and text.endswith("}\n")


def test_figures_in_json_have_six_significant_digits(tmp_path):
    content = {"a": [0.1 + 0.2, 1234567.8], "b": {"c": 1e-9 / 3, "d": 10**9 + 1, "e": True}, "f": None}
    write_json(tmp_path / "x.json", content, DIGITS)
    assert read_json(tmp_path / "x.json") == {
        "a": [0.3, 1234570.0], "b": {"c": 3.33333e-10, "d": 10**9 + 1, "e": True}, "f": None
    }


def test_json_without_a_value_for_nan(tmp_path):
    write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert read_json(tmp_path / "x.json") == {"a": 1} and names(tmp_path) == ["x.json"]


def test_sha256(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_cache_folder_is_the_chosen_one_then_the_platforms(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    monkeypatch.setenv("BEHAVIORLM_CACHE", "~/models")
    assert cache_folder() == Path.home() / "models"
    monkeypatch.delenv("BEHAVIORLM_CACHE")
    assert cache_folder() == Path("/somewhere/behaviorlm")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "behaviorlm"


@pytest.fixture
def inputs(tmp_path):
    folder = tmp_path / "inputs"
    folder.mkdir()
    for name in ("a.py", "b.py"):
        (folder / name).write_text(name)
    return folder


def test_fingerprint_follows_params_and_bytes(inputs):
    before = fingerprint({"rate": 1}, [inputs])
    assert len(before) == 20 and before == fingerprint({"rate": 1}, [inputs])
    assert before != fingerprint({"rate": 2}, [inputs])
    assert before != fingerprint({"rate": 1}, [inputs / "a.py"])
    (inputs / "b.py").write_text("changed")
    assert before != fingerprint({"rate": 1}, [inputs])


def test_fingerprint_follows_neither_times_nor_pythons_caches(inputs):
    before = fingerprint(None, [inputs])
    (inputs / "a.py").touch()
    (inputs / "__pycache__").mkdir()
    (inputs / "__pycache__" / "a.pyc").write_text(str(time.time()))
    assert fingerprint(None, [inputs]) == before
