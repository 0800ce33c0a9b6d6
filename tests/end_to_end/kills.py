"""Kill every stage at several points, run it again, and compare what it wrote with what an undisturbed run writes.

    python -m tests.end_to_end.kills FOLDER     # with params.yaml, dvc.yaml and data/ as in a repository

Prints a line a kill, and the count. Stage `card` is left out: it reads what only DVC writes, dvc.lock. Each run is a
child that is forked when everything is imported: a kill then costs seconds less. The parent only imports; threads of
Polars and PyTorch do not outlive a fork.
"""

import filecmp
import os
import re
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import reduce
from importlib import import_module
from operator import getitem
from pathlib import Path
from typing import NamedTuple

from ruamel.yaml import YAML

from stages.common import files, stage as stage_module
from stages.common.files import cache_folder
from stages.training import trainer
from tests.contract.matrices import combinations, filled

KILLED_AT_STEP = 3


def die(*given, **named) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before_it_computes() -> None:
    stage_module.ExitStack = die


def before_output(number: int) -> Callable[[], None]:
    """Dead when the output of that number, the first being 1, stands beside its place."""
    def patch() -> None:
        counted, replace = iter(range(1, 10**6)), os.replace
        files.os.replace = lambda *paths: die() if next(counted) == number else replace(*paths)

    return patch


def at_a_step() -> None:
    """Dead in the middle of training, with a checkpoint of the step before."""
    trainer._SECONDS_BETWEEN_CHECKPOINTS = 0
    step_end = trainer.Checkpoints.on_step_end

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == KILLED_AT_STEP:
            die()
        step_end(self, args, state, control, **kwargs)

    trainer.Checkpoints.on_step_end = on_step_end


def while_saving() -> None:
    """Dead when a second checkpoint has been saved, but not marked as whole."""
    trainer._SECONDS_BETWEEN_CHECKPOINTS = 0
    save = trainer.Checkpoints.on_save
    trainer.Checkpoints.on_save = lambda self, args, state, control, **kwargs: (
        die() if state.global_step == 2 else save(self, args, state, control, **kwargs))


def run(folder: Path, words: list[str], patch: Callable[[], object] = lambda: None) -> int:
    """Run a stage in a child; its status, negative for the signal that ended it. What it says goes to FOLDER/said."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        os.chdir(folder)
        said = os.open("said", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(said, 1)
        os.dup2(said, 2)
        patch()
        sys.argv = words
        import_module(f"stages.{words[0]}").STAGE.run()
    except SystemExit as ended:
        os._exit(ended.code or 0)
    except BaseException:
        traceback.print_exc()
    os._exit(70)


class Described(NamedTuple):
    """A stage's name, its command line behind `python -m stages.`, what it reads and what it writes."""

    name: str
    words: list[str]
    deps: list[Path]
    outs: list[Path]


def stages_of(folder: Path) -> Iterator[Described]:
    """The stages of dvc.yaml in an order in which they can run."""
    waiting = list(_described(folder))
    while waiting:
        coming = [out for stage in waiting for out in stage.outs]
        ready = next(stage for stage in waiting if not any(
            dep == out or out in dep.parents or dep in out.parents for dep in stage.deps for out in coming))
        waiting.remove(ready)
        yield ready


def _described(folder: Path) -> Iterator[Described]:
    read = YAML(typ="safe").load
    params = read((folder / "params.yaml").read_text("utf-8"))
    for name, stage in read((folder / "dvc.yaml").read_text("utf-8"))["stages"].items():
        for item in combinations(stage.get("matrix", {})):
            def whole(text: str, item=item) -> str:
                return re.sub(r"\$\{([\w.]+)\}", lambda found: str(reduce(getitem, found[1].split("."), params)),
                              filled(text, item))

            outs = [next(iter(out)) if isinstance(out, dict) else out
                    for kind in ("outs", "metrics", "plots") for out in stage.get(kind, [])]
            words = whole(stage["cmd"]).split()
            assert words[:2] == ["python", "-m"]
            yield Described("@".join([name, *map(str, item.values())]), [words[2].removeprefix("stages."), *words[3:]],
                            [Path(whole(dep)) for dep in stage["deps"]], [Path(whole(out)) for out in outs])


def points_of(name: str, written: int) -> dict[str, Callable[[], None]]:
    """Where a stage is killed that puts `written` files and folders into their places."""
    points = {"before it computes": before_it_computes, "before its first output": before_output(1)}
    if written > 1:
        points["before its last output"] = before_output(written)
    if name in ("sft", "dpo"):
        points |= {"at a step": at_a_step, "while saving": while_saving}
    return points


def same(one: Path, other: Path) -> bool:
    if one.is_file():
        return filecmp.cmp(one, other, shallow=False)
    names = sorted(path.relative_to(one) for path in one.rglob("*"))
    return names == sorted(path.relative_to(other) for path in other.rglob("*")) and all(
        same(one / name, other / name) for name in names if (one / name).is_file())


def counted(folder: Path, words: list[str]) -> int:
    """Run a stage undisturbed; how many files and folders it put into their places."""
    def patch() -> None:
        replace = os.replace

        def count(*paths):
            with open("replaced", "a", encoding="utf-8") as file:
                file.write(".")
            replace(*paths)

        files.os.replace = count

    (folder / "replaced").unlink(missing_ok=True)
    assert run(folder, words, patch) == 0, (folder / "said").read_text("utf-8")[-3000:]
    return len((folder / "replaced").read_text("utf-8"))


def main(folder: Path) -> int:
    """The number of kills; ends with an error where an output differs or something is left."""
    whole, kills = folder.with_name(f"{folder.name}-whole"), 0
    shutil.copytree(folder, whole)
    stages = [stage for stage in stages_of(folder) if stage.words[0] != "card"]
    for stage in stages:
        import_module(f"stages.{stage.words[0]}")
    for name, words, _, outs in stages:
        written = counted(whole, words)
        for point, patch in points_of(name, written).items():
            for out in outs:  # as DVC does before a run
                path = folder / out
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            assert run(folder, words, patch) == -signal.SIGKILL, f"{name}: not killed {point}"
            assert run(folder, words) == 0, (folder / "said").read_text("utf-8")[-3000:]
            for out in outs:
                assert same(whole / out, folder / out), f"{name}, killed {point}: {out} differs"
            left = [*folder.rglob("*.part"), *cache_folder().rglob("checkpoints/*")]
            assert not left, f"{name}, killed {point}: left {left}"
            kills += 1
            print(f"{name}: killed {point}, the same bytes", flush=True)
    said = (folder / "said").read_text("utf-8")
    print(f"{kills} kills, {said.count('of an interrupted run')} resumed from a checkpoint")
    return kills


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
