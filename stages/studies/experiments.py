"""A plan's experiments on DVC's queue, by DVC's commands: what is finished stays, the rest is queued and waited for."""

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

    def of(self, marks: Mapping[str, Experiment], *states: str) -> dict[str, Task]:
        """By mark the tasks of the experiments with these marks that are in one of `states`."""
        return {mark: task for task in self.tasks if task.state in states and (mark := mark_of(task.name)) in marks}


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
    # of the experiments that `run` waits for: by mark what has not come to its end, the names of those that failed
    _left: dict[str, Experiment] = field(default_factory=dict)
    _failed: list[str] = field(default_factory=list)
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
        self._left, self._failed = {e.mark: e for e in experiments if e.mark not in done}, []
        if not (count := len(self._left)):
            return
        try:
            with track("experiments", count) as bar:
                self._wait(count, bar)
        except KeyboardInterrupt:
            console.print("\nno longer watching; the worker goes on with the queue. `dvc queue status` shows it, "
                          "`dvc queue stop --kill` ends it, and the same command continues.", soft_wrap=True)
            raise
        finally:
            for follower in self._followers:
                follower.kill()
        if failed := self._failed:
            rest = "; the others were taken off the queue" if self._left else ""
            raise UserError(f"{len(failed)} of {count} experiments failed: {', '.join(failed)}{rest}; see "
                            f"`dvc queue logs {failed[0]}`. The same command tries them again, and runs nothing twice; "
                            "with --report-only it compares what is finished")

    def _wait(self, count: int, bar: Track) -> None:
        """Queue what is left, and wait until all is finished or failed, or the first ones have all failed.

        Raises:
            UserError: nothing runs, however often workers are started.
        """
        under_way = self._enqueue()
        at_work, starts, done = time.monotonic(), 0, 0
        while self._left:
            status = self.status()
            for mark, task in status.of(self._left, "Success", "Failed").items():
                experiment, starts = self._left.pop(mark), 0
                self._failed += [experiment.name] if task.state == "Failed" else []
            succeeded = count - len(self._left) - len(self._failed)
            if not succeeded and len(self._failed) >= _FAILURES:
                self._take_off()
                return
            if status.active or status.idle:
                at_work = time.monotonic()
            lost = self._left.keys() - status.of(self._left, "Queued", "Running").keys()
            if lost or time.monotonic() - at_work > _SECONDS_WITHOUT_WORKER:
                starts += 1
                if starts > _STARTS:
                    raise UserError("DVC's queue stands still: no experiment runs, although its workers were started "
                                    f"{_STARTS} times; see `dvc queue status`. The same command continues")
                self._enqueue()
                at_work = time.monotonic()
            running = status.of(self._left, "Running")
            for mark in running:
                self._follow(self._left[mark], mark in under_way)
            # failed ones do not count as done: they took no time that the others would take
            bar.advance(succeeded - done, self._note(status))
            done = succeeded
            self._ended.clear()
            steady = running and not any(self._clocks[mark].ended for mark in running)
            self._ended.wait(_SECONDS_BETWEEN_LOOKS if steady else _SECONDS_BEFORE_NEWS)

    def _enqueue(self) -> set[str]:
        """Have all that is left on the queue once, and workers started; the marks of those that run already.

        What waits since an earlier commit stays: with an equal mark it comes to an equal result.
        """
        status = self._without_dead()
        # after the queue, so that none ends unseen in between
        for mark in finished(self.root).keys() & self._left.keys():
            del self._left[mark]
        # they failed, or somebody has removed the experiment since
        if stale := [task.id for task in status.of(self._left, "Failed", "Success").values()]:
            dvc(self.root, "queue", "remove", *stale)
        there = status.of(self._left, "Queued", "Running")
        if missing := [experiment for mark, experiment in self._left.items() if mark not in there]:
            with track("queueing experiments", len(missing)) as bar:
                for experiment in missing:
                    settings = [part for key, value in experiment.overrides.items()
                                for part in ("-S", f"{key}={hydra(value)}")]
                    dvc(self.root, "exp", "run", "--queue", "--name", experiment.name, *settings, *experiment.targets)
                    bar.advance()
        # an earlier study's may be at work still; without need DVC is not asked for more, since it starts a second one
        # in place of each that is too busy to answer within a second
        if self._left and status.active + status.idle < self.jobs:
            dvc(self.root, "queue", "start", "--jobs", str(self.jobs), environment=_surroundings(self.jobs))
        return set(status.of(self._left, "Running"))

    def _without_dead(self) -> Status:
        """The queue's status after what is said to run, but whose worker was killed, has been put down as failed."""
        for _ in range(_LOOKS_AT_DEAD):
            status = self.status()
            dead = [task.id for task in status.of(self._left, "Running").values()]
            if not dead or status.active:
                return status
            time.sleep(_SECONDS_BEFORE_NEWS)
        # the first time ends what has outlived its worker, the second one puts that down, too
        for _ in range(2):
            dvc(self.root, "queue", "kill", "--force", *dead, check=False)
        return self.status()

    def _take_off(self) -> None:
        for _ in range(_FAILURES):  # DVC removes none of them if one has just begun to run
            if not (waiting := [task.id for task in self.status().of(self._left, "Queued").values()]):
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
                return Status([Task(*found) for found in _TASK.findall(said)], *map(int, workers.groups()))
        raise UserError(f"dvc queue status: printed no line of workers: {said}")

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
            for line in follower.stdout or ():
                clock.read(line)
            clock.close()
            self._ended.set()

        threading.Thread(target=read, daemon=True).start()

    def _note(self, status: Status) -> str:
        """What runs now, for people."""
        if running := status.of(self._left, "Running"):
            return ", ".join(f"{task.name.removesuffix(f'-{mark}')}: {self._clocks[mark].stage or 'starting'}"
                             for mark, task in running.items())
        others = [task.name for task in status.tasks if task.state == "Running"]
        return f"the queue is at other experiments first: {', '.join(others)}" if others else ""


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
