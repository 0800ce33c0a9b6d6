"""Warm processes begin and end as cold ones do."""

import signal
import subprocess
import sys
import time

import psutil
import pytest

PROGRAM = """
import os, sys
print(os.getcwd(), os.environ["NAME"], sys.argv[1:], __name__, sys.stdin.read(), flush=True)
ends = {"well": lambda: None, "status": lambda: sys.exit(3), "words": lambda: sys.exit("words"), "error": lambda: 1 / 0,
        "signal": lambda: os.kill(os.getpid(), 15)}
ends[sys.argv[1]]()
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    path = tmp_path_factory.mktemp("programs") / "program.py"
    path.write_text(PROGRAM)
    return path


@pytest.mark.parametrize("end", ["well", "status", "words", "error", "signal"])
def test_what_goes_in_and_comes_out(warm_python, program, end):
    for command in ("-m", "program", end), ("-u", program.name, end):
        cold, warm = (
            subprocess.run([python, *command], cwd=program.parent, env={"NAME": "Ω"}, input="read", text=True,
                           capture_output=True, check=False) for python in (sys.executable, warm_python))
        assert (warm.returncode, warm.stdout) == (cold.returncode, cold.stdout) and "read" in warm.stdout
        assert warm.stderr.splitlines()[-1:] == cold.stderr.splitlines()[-1:]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_one_that_is_ended_is_gone(warm_python, tmp_path, number):
    (tmp_path / "wait.py").write_text("import os, time; print(os.getpid(), flush=True); time.sleep(300)")
    process = subprocess.Popen([warm_python, "wait.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    waits = int(process.stdout.readline())
    process.send_signal(number)
    assert process.wait(timeout=60) == -number
    while psutil.pid_exists(waits):
        time.sleep(0.05)
