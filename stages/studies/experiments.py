"""A plan's experiments on DVC's queue, by DVC's commands: those that are finished stay, the others are queued and waited for."""

import os
import re
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from stages.common.console import Track, console, track
from stages.common.errors import UserError
from stages.studies.durations import Durations, StageClock
from stages.studies.plan import Experiment
from stages.studies.repository import dvc, finished, mark_of

# A look at the queue takes DVC a second of a core; in between, what the experiments print says when one ends.
_SECONDS_BETWEEN_LOOKS, _SECONDS_BEFORE_NEWS = 10.0, 2.0
# with no worker for so long, it is gone: DVC's own ends when it finds the queue empty, or was killed
_SECONDS_WITHOUT_WORKER, _STARTS = 60.0, 5
# so many looks in a row without a working worker, and what is said to run was killed: a busy one may fail to answer
_LOOKS_AT_DEAD = 4
# this many failures without a success, and the others are not tried
_FAILURES = 3
_HYDRAS_WORDS = {"true", "false", "null", "inf", "nan"}
_TASK = re.compile(r"^([0-9a-f]{7}) +(\S+) .* (Queued|Running|Failed|Success) *$", re.MULTILINE)
_WORKERS = re.compile(r"^Worker status: (\d+) active, (\d+) idle", re.MULTILINE)


class Task(NamedTuple):
    """A line of `dvc queue status`."""

    id: str
    name: str
    state: str


@dataclass(frozen=True)
class Status:
    """What `dvc queue status` says; of workers those that answered in time."""

    tasks: list[Task]
    active: int
    idle: int

    def of(self, marks: Mapping[str, Experiment], *states: str) -> list[Task]:
        """Tasks of the experiments with these marks that are in one of `states`."""
        return [task for task in self.tasks if task.state in states and mark_of(task.name) in marks]


@dataclass
class _Progress:
    """Where the experiments stand that a study waits for: `left` by mark, `failed` by name."""

    left: dict[str, Experiment]
    failed: list[str] = field(default_factory=list)
    succeeded: int = 0


@dataclass
class Queue:
    """DVC's queue of experiments in one repository.

    Queued experiments are run by workers of DVC's that go on when this process is stopped, each one after the other.

    Attributes:
        jobs: workers to have at least when a study begins; the processors are shared out among those that it starts, by
            OMP_NUM_THREADS, unless that is set. Those of an earlier study go on as they were started.
    """

    root: Path
    durations: Durations
    jobs: int = 1
    _clocks: dict[str, StageClock] = field(default_factory=dict)
    _followers: list[subprocess.Popen] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)

    def run(self, experiments: Sequence[Experiment]) -> None:
        """Run those of `experiments` that are not finished, and wait for them.

        Raises:
            UserError: one failed; the others have been run, unless the first ones all failed; the message says how to
                see what it said.
        """
        done = finished(self.root)
        missing = {e.mark: e for e in experiments if e.mark not in done}
        if not missing:
            return
        state = _Progress(dict(missing))
        try:
            with track("experiments", len(missing)) as bar:
                self._wait(state, bar)
        except KeyboardInterrupt:
            console.print("\nno longer watching; the worker goes on with the queue. `dvc queue status` shows it, "
                          "`dvc queue stop --kill` ends it, and the same command continues.", soft_wrap=True)
            raise
        finally:
            for follower in self._followers:
                follower.kill()
        if failed := state.failed:
            rest = "; the others were taken off the queue" if state.left else ""
            raise UserError(f"{len(failed)} of {len(missing)} experiments failed: {', '.join(failed)}{rest}; see "
                            f"`dvc queue logs {failed[0]}`. The same command tries them again, and runs nothing twice; "
                            "with --report-only it compares what is finished")

    def _wait(self, state: _Progress, bar: Track) -> None:
        """Queue what is left, and wait until all is finished or failed, or the first ones have all failed.

        Raises:
            UserError: nothing runs, however often workers are started.
        """
        running = self._enqueue(state)
        at_work, starts = time.monotonic(), 0
        while state.left:
            status, before = self.status(), len(state.left)
            self._settle(status, state, bar)
            if not state.succeeded and len(state.failed) >= _FAILURES:
                self._remove_queued(state.left)
                return
            if len(state.left) < before:
                starts = 0
            if status.active or status.idle:
                at_work = time.monotonic()
            there = {mark_of(task.name) for task in status.of(state.left, "Queued", "Running")}
            if state.left.keys() - there or time.monotonic() - at_work > _SECONDS_WITHOUT_WORKER:
                starts += 1
                if starts > _STARTS:
                    raise UserError("DVC's queue stands still: no experiment runs, although its workers were started "
                                    f"{_STARTS} times; see `dvc queue status`. The same command continues")
                self._enqueue(state)
                at_work = time.monotonic()
            for task in status.of(state.left, "Running"):
                self._follow(state.left[mark_of(task.name)], mark_of(task.name) in running)
            # failed ones do not count as done: they took no time that the others would take
            bar.advance(0, self._note(status, state.left))
            self._ended.clear()
            clocks = [self._clocks[mark_of(task.name)] for task in status.of(state.left, "Running")]
            steady = clocks and not any(clock.ended for clock in clocks)
            self._ended.wait(_SECONDS_BETWEEN_LOOKS if steady else _SECONDS_BEFORE_NEWS)

    def _settle(self, status: Status, state: _Progress, bar: Track) -> None:
        """Take what has come to its end off what is left."""
        for task in status.of(state.left, "Success", "Failed"):
            if not (experiment := state.left.pop(mark_of(task.name), None)):
                continue
            if task.state == "Failed":
                state.failed.append(experiment.name)
            else:
                state.succeeded += 1
                bar.advance()

    def _enqueue(self, state: _Progress) -> set[str]:
        """Have all that is left on the queue once, and workers started; the marks of those that run already.

        What waits since an earlier commit stays: with an equal mark it comes to an equal result.
        """
        status = self._without_dead(state.left)
        # after the queue, so that none ends unseen in between
        for mark in finished(self.root).keys() & state.left.keys():
            del state.left[mark]
            state.succeeded += 1
        # they failed, or somebody has removed the experiment since
        if stale := [task.id for task in status.of(state.left, "Failed", "Success")]:
            dvc(self.root, "queue", "remove", *stale)
        there = {mark_of(task.name) for task in status.of(state.left, "Queued", "Running")}
        if missing := [experiment for mark, experiment in state.left.items() if mark not in there]:
            with track("queueing experiments", len(missing)) as bar:
                for experiment in missing:
                    settings = [part for key, new in experiment.overrides.items() for part in ("-S", f"{key}={hydra(new)}")]
                    dvc(self.root, "exp", "run", "--queue", "--name", experiment.name, *settings, *experiment.targets)
                    bar.advance()
        # an earlier study's may be at work still; without need DVC is not asked for more, since it starts a second one in
        # place of each that is too busy to answer within a second
        if state.left and status.active + status.idle < self.jobs:
            dvc(self.root, "queue", "start", "--jobs", str(self.jobs), environment=_surroundings(self.jobs))
        return {mark_of(task.name) for task in status.of(state.left, "Running")}

    def _without_dead(self, marks: Mapping[str, Experiment]) -> Status:
        """The queue's status after what is said to run, but whose worker was killed, has been put down as failed."""
        for _ in range(_LOOKS_AT_DEAD):
            status = self.status()
            dead = [task.id for task in status.of(marks, "Running")]
            if not dead or status.active:
                return status
            time.sleep(_SECONDS_BEFORE_NEWS)
        # the first time ends what has outlived its worker, the second one puts that down, too
        for _ in range(2):
            dvc(self.root, "queue", "kill", "--force", *dead, check=False)
        return self.status()

    def _remove_queued(self, left: Mapping[str, Experiment]) -> None:
        for _ in range(_FAILURES):  # DVC removes none of them if one has just begun to run
            if not (waiting := [task.id for task in self.status().of(left, "Queued")]):
                return
            dvc(self.root, "queue", "remove", *waiting, check=False)

    def status(self) -> Status:
        """What the queue holds, and which workers there are.

        Raises:
            UserError: DVC cannot say so, several times in a row.
        """
        for last in (False, False, True):  # a file may be moved by a worker in this moment
            said = dvc(self.root, "queue", "status", check=last)
            if workers := _WORKERS.search(said):
                break
        else:
            raise UserError(f"dvc queue status: printed no line of workers: {said}")
        return Status([Task(*found) for found in _TASK.findall(said)], *map(int, workers.groups()))

    def _follow(self, experiment: Experiment, under_way: bool) -> None:
        """Read what a running experiment prints, in a thread; again where there was nothing to be read yet."""
        known = self._clocks.get(experiment.mark)
        if known and (known.stage or not known.ended):
            return
        clock = self._clocks[experiment.mark] = StageClock(experiment, self.durations, under_way)
        follower = subprocess.Popen(
            [sys.executable, "-m", "dvc", "queue", "logs", "--follow", experiment.name], cwd=self.root,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8", errors="replace",
            env=os.environ | {"PYTHONUNBUFFERED": "1"})
        self._followers.append(follower)

        def read() -> None:
            for line in follower.stdout:
                clock.read(line)
            clock.close()
            self._ended.set()

        threading.Thread(target=read, daemon=True).start()

    def _note(self, status: Status, left: Mapping[str, Experiment]) -> str:
        """What runs now, for people."""
        running = [task for task in status.tasks if task.state == "Running"]
        ours = [f"{task.name.rpartition('-')[0]}: {self._clocks[mark].stage or 'starting'}"
                for task in running if (mark := mark_of(task.name)) in left and mark in self._clocks]
        if running and not ours:
            return f"the queue is at other experiments first: {', '.join(task.name for task in running)}"
        return ", ".join(ours)


def _surroundings(jobs: int) -> dict[str, str]:
    """Of workers: they are started by the name `dvc`, also where the environment is not activated."""
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))} if jobs > 1 else {}
    return {**threads, **os.environ, "PATH": path}


def hydra(value: object) -> str:
    """A value as Hydra's grammar reads it back; a text is quoted where it could be read as anything else."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return repr(value)
    if re.fullmatch(r"[A-Za-z][\w./-]*", value, re.ASCII) and value.lower() not in _HYDRAS_WORDS:
        return value
    # a backslash means something only in front of a quote, so before the closing one too
    inside = re.sub(r"(\\*)(')", r"\1\1\\'", value)
    return "'" + re.sub(r"(\\+)$", r"\1\1", inside) + "'"
