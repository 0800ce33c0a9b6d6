"""Python processes that start warm: forked from one that has PyTorch and the libraries around it imported.

Importing those takes five seconds of a core, which tests that start many processes would spend again and again. A
forked process is one like any other, with a memory, a working directory, an environment, files and an end of its own,
and it imports what is ours by itself. Only the seed of Python's hashes is that of the others: what must not depend on
them is tested with cold ones.

    python tests/warm.py NAME    serves at the abstract socket NAME, until its standard input is closed
"""

import atexit
import gc
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

CLIENT = """#!{python} -IS
# `python`, but warm (tests/warm.py); with options before the module or script a cold one, as elsewhere than on Linux
import json, os, signal, socket, sys

words = sys.argv[1:]
first = (words[1:] if words[:1] == ["-u"] else words)[:1]
if sys.platform != "linux" or not first or first[0].startswith("-") and first[0] != "-m":
    os.execv("{python}", ["{python}", *words])
server = socket.socket(socket.AF_UNIX)
server.connect("\\0{name}")
content = json.dumps([words, dict(os.environ), os.getcwd()]).encode()
socket.send_fds(server, [len(content).to_bytes(8, "big")], [0, 1, 2])
server.sendall(content)
answer = server.makefile("r")
process = int(answer.readline())
for each in (signal.SIGINT, signal.SIGTERM):
    signal.signal(each, lambda number, frame: os.kill(process, number))
status = int(answer.readline())
if status < 0:
    if status != -signal.SIGKILL:
        signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
sys.exit(status)
"""


@contextmanager
def started(folder: Path) -> Iterator[Path]:
    """A command that takes the place of `python` in that folder, for as long as the context lasts."""
    name = f"behaviorlm-{uuid4()}"
    command = folder / "python"
    command.write_text(CLIENT.format(python=sys.executable, name=name), encoding="utf-8")
    command.chmod(0o755)
    if sys.platform != "linux":
        yield command
        return
    # compiled once, where it leaves no trace
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    server = subprocess.Popen(
        [sys.executable, __file__, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        env=environment | {"OMP_NUM_THREADS": "1", "PYTHONPYCACHEPREFIX": str(folder / "compiled")},
    )
    with server:
        assert server.stdout.readline() == b"ready\n"
        yield command
        server.stdin.close()


def import_libraries() -> None:
    import datasets  # noqa: F401
    import torch.distributed.run  # noqa: F401
    from peft import LoraConfig  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer  # noqa: F401
    from transformers.models.llama import modeling_llama  # noqa: F401
    from trl import DPOTrainer, SFTTrainer  # noqa: F401

    # a fork has no threads but its own; jemalloc knows of that, Polars does not, and is imported by each anew
    threads = {path.parent.name: path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")}
    assert {name for number, name in threads.items() if int(number) != os.getpid()} <= {"jemalloc_bg_thd"}, threads


def serve(name: str) -> tuple[list[str], dict[str, str], str]:
    """Fork for each that asks; returns, in a forked process only, its command line, environment and folder."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"\0{name}")
    listener.listen()
    waiting = selectors.DefaultSelector()
    waiting.register(0, selectors.EVENT_READ, "closed")
    waiting.register(listener, selectors.EVENT_READ, "asked")
    processes: dict[socket.socket, int] = {}
    print("ready", flush=True)
    while True:
        for key, _ in waiting.select():
            if key.data == "closed":
                for process in processes.values():
                    os.kill(process, signal.SIGKILL)
                os._exit(0)
            elif key.data == "asked":
                caller, _ = listener.accept()
                header, files, _, _ = socket.recv_fds(caller, 8, 3)
                with caller.makefile("rb") as content:
                    asked = json.loads(content.read(int.from_bytes(header, "big")))
                process = os.fork()
                if not process:
                    for number, file in enumerate(files):
                        os.dup2(file, number)
                    os.closerange(3, 1024)
                    return asked
                for file in files:
                    os.close(file)
                say(caller, process)
                processes[caller] = process
                waiting.register(caller, selectors.EVENT_READ, "left")
                waiting.register(os.pidfd_open(process), selectors.EVENT_READ, caller)
            elif key.data == "left":  # whoever waited was killed
                if key.fileobj in processes:
                    waiting.unregister(key.fileobj)
                    os.kill(processes[key.fileobj], signal.SIGKILL)
            else:
                caller = key.data
                _, status = os.waitpid(processes.pop(caller), 0)
                waiting.unregister(key.fileobj)
                os.close(key.fd)
                if caller in waiting.get_map():
                    waiting.unregister(caller)
                    say(caller, os.waitstatus_to_exitcode(status))
                caller.close()


def say(caller: socket.socket, number: int) -> None:
    with suppress(OSError):  # it was killed
        caller.sendall(f"{number}\n".encode())


def run(words: list[str], environment: dict[str, str], folder: str) -> None:
    """What `python` does with its command line."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    if words[0] == "-u":
        words = words[1:]
        sys.stdout.reconfigure(write_through=True)
    is_module = words[0] == "-m"
    sys.argv = words[is_module:]
    path = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:1] = [folder if is_module else str(Path(words[0]).parent.absolute()), *filter(None, path)]
    if is_module:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")


def status_of(end: SystemExit) -> int:
    if end.code is None or isinstance(end.code, int):
        return (end.code or 0) & 0xFF
    print(end.code, file=sys.stderr)
    return 1


if __name__ == "__main__":
    import_libraries()
    gc.freeze()
    asked = serve(sys.argv[1])
    status = 0
    try:
        run(*asked)
    except SystemExit as end:
        status = status_of(end)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    # as Python ends, but for taking apart all that was imported, which takes half a second
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
