"""Two runs with the same inputs: the second waits, and goes on from what the first has left."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from stages.common.checkpoints import checkpoint_folder, checkpoints

ROOT = Path(__file__).parents[2]
# begins, saves a checkpoint, and ends well when it is told to
TRAINS = """
import sys
from stages.common.checkpoints import checkpoints
with checkpoints("sft", "abc") as folder:
    found = folder.is_dir() and sorted(path.name for path in folder.iterdir())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "checkpoint-7").mkdir(exist_ok=True)
    print(found, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("BEHAVIORLM_CACHE", str(tmp_path))
    return tmp_path / "checkpoints"


@pytest.fixture
def start():
    """Starts such a run; all are ended with the test."""
    running = []

    def begin():
        running.append(subprocess.Popen([sys.executable, "-c", TRAINS], cwd=ROOT, text=True, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        return running[-1]

    yield begin
    for process in running:
        process.kill()
        process.communicate()


def told_to_end(process):
    return process.communicate("\n", timeout=60)


def test_the_second_waits_and_goes_on_from_the_firsts_checkpoint(start, cache):
    first = start()
    assert first.stdout.readline() == "False\n", "nothing was there"
    second = start()
    assert "waiting for another run that does the same (sft, from the same inputs)" in second.stderr.readline()
    told_to_end(first)
    assert second.stdout.readline() == "['checkpoint-7']\n"
    told_to_end(second)
    assert (first.returncode, second.returncode) == (0, 0)
    assert list(cache.iterdir()) == [], "nobody waited for the second"


def test_one_that_is_alone_leaves_nothing(start, cache):
    told_to_end(start())
    assert list(cache.iterdir()) == []


def test_one_that_is_killed_leaves_its_checkpoint_and_holds_nobody_up(start, cache):
    first = start()
    first.stdout.readline()
    first.kill()
    first.wait()
    second = start()
    assert second.stdout.readline() == "['checkpoint-7']\n"
    assert told_to_end(second)[1] == "" and list(cache.iterdir()) == []


def test_one_that_waits_and_is_killed_leaves_nothing_either(start, cache):
    first = start()
    first.stdout.readline()
    second = start()
    second.stderr.readline()
    second.kill()
    second.wait()
    told_to_end(first)
    told_to_end(start())
    assert list(cache.iterdir()) == []


def test_other_inputs_do_not_wait(cache):
    with checkpoints("sft", "abc"):
        done = []

        def other():
            with checkpoints("sft", "def") as folder:
                done.append(folder)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join(timeout=30)
    assert done == [checkpoint_folder("sft", "def")]
