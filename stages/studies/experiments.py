"""A plan's experiments on DVC's queue: those that are finished stay, the others are queued, run and watched."""

import contextlib
import io
import os
import re
import sysconfig
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from dvc.cli import main as dvc_main
from dvc.repo import Repo

from stages.common.console import console, track
from stages.common.errors import UserError
from stages.common.files import read_json
from stages.studies.durations import Durations
from stages.studies.plan import Experiment
from stages.studies.repository import git
from stages.studies.watch import StageWatch

# Finished experiments are refs of Git, quick to list; opening DVC's queue takes half a second of a core.
_SECONDS_BETWEEN_LOOKS, _LOOKS_BETWEEN_QUEUES = 2.0, 5
# looks at the queue, each time, until what has just been started is found in it
_LOOKS_FOR_THE_NEXT = 10
# with nothing running for so long, the worker is gone: DVC's own ends when it finds the queue empty, or was killed
_SECONDS_WITHOUT_WORK, _STARTS = 60.0, 5
# this many failures without a success, and the others are not tried
_FAILURES = 3
_INTERRUPTED = 252  # what `dvc` returns after Ctrl-C
_HYDRAS_WORDS = {"true", "false", "null", "inf", "nan"}
# refs/exps holds refs of DVC's own too; those of experiments have the commit they started from
_EXPERIMENT = re.compile(r"refs/exps/[0-9a-f]{2}/[0-9a-f]{38,}/([^/]+)")


class Finished(NamedTuple):
    """An experiment that has run, whatever study it was run for."""

    name: str
    commit: str


def finished(root: Path) -> dict[str, Finished]:
    """Every finished experiment by the mark at the end of its name, whatever commit it started from.

    Raises:
        UserError: `root` is in no Git repository.
    """
    listed = _git(root, "for-each-ref", "--format=%(refname) %(objectname)", "refs/exps")
    found = {}
    for line in listed.splitlines():
        ref, commit = line.split()
        if match := _EXPERIMENT.fullmatch(ref):
            found[_mark(match[1])] = Finished(match[1], commit)
    return found


@dataclass
class _Watched:
    """Where the experiments stand that a study waits for, by mark; `running` are entries of the queue, and `others` the
    names of running experiments that nobody asked for here."""

    left: dict[str, Experiment]
    watches: Mapping[str, StageWatch]
    running: dict[str, str] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    succeeded: int = 0

    def note(self) -> str:
        """What runs now, for people."""
        names = [self.left[mark].name.removesuffix(f"-{mark}") + f": {self.watches[mark].stage or 'starting'}"
                 for mark in self.running]
        if not names and self.others:
            return f"the queue is at other experiments first: {', '.join(self.others)}"
        return ", ".join(names)


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
    # entries that had failed before, where DVC would not take them off the queue
    _old: set[str] = field(default_factory=set)
    _at_work: float = 0.0
    _starts: int = 0

    def run(self, experiments: Sequence[Experiment]) -> None:
        """Run those of `experiments` that are not finished, and wait for them.

        Raises:
            UserError: one failed; the others have been run, unless the first ones all failed; the message says how to
                see what it said.
        """
        done = finished(self.root)
        missing = [e for e in experiments if e.mark not in done]
        if not missing:
            return
        under_way = self._enqueue(missing)
        watched = _Watched({e.mark: e for e in missing},
                           {e.mark: StageWatch(e, self.durations, e.mark in under_way) for e in missing})
        try:
            with track("experiments", len(missing)) as progress:
                self._watch(watched, progress)
        except KeyboardInterrupt:
            console.print("\nno longer watching; the worker goes on with the queue. `dvc queue status` shows it, "
                          "`dvc queue stop --kill` ends it, and the same command continues.", soft_wrap=True)
            raise
        if failed := watched.failed:
            rest = "; the others were taken off the queue" if watched.left else ""
            raise UserError(f"{len(failed)} of {len(missing)} experiments failed: {', '.join(failed)}{rest}; see "
                            f"`dvc queue logs {failed[0]}`. The same command tries them again, and runs nothing twice; "
                            "with --report-only it compares what is finished")

    def _enqueue(self, experiments: Collection[Experiment]) -> set[str]:
        """Have all of them on the queue once and a worker started; the marks of those that run already."""
        marks = {experiment.mark for experiment in experiments}
        self._tidy(marks)
        queue = self._queue()
        running = {_mark(entry.name) for entry in _entries(queue.iter_active())} & marks
        there = running | {_mark(entry.name) for entry in _entries(queue.iter_queued())}
        missing = [experiment for experiment in experiments if experiment.mark not in there]
        if missing:
            with track("queueing experiments", len(missing)) as progress:
                for experiment in missing:
                    self._put(experiment)
                    progress.advance()
        self._start_workers()
        self._at_work = time.monotonic()
        return running

    def _start_workers(self) -> None:
        """Start what is missing of `jobs` workers: of an earlier study's some may have found nothing to do and ended."""
        alive = _workers(self.root)
        # they are started by the name `dvc`, also where the environment is not activated
        scripts, path = sysconfig.get_path("scripts"), os.environ.get("PATH", "")
        if scripts not in path.split(os.pathsep):
            os.environ["PATH"] = os.pathsep.join([scripts, path])
        if self.jobs > 1:
            os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // self.jobs)))
        if not alive:
            self._dvc("queue", "start", "--jobs", str(self.jobs))
            return
        # not `dvc queue start`: it asks the workers themselves, and starts a second one in place of each that is too busy
        # to answer within a second
        queue = self._queue()
        with contextlib.chdir(self.root):
            for number in sorted({*range(1, self.jobs + 1)} - alive):
                queue._spawn_worker(number)

    def _put(self, experiment: Experiment) -> None:
        settings = [part for key, value in experiment.overrides.items() for part in ("-S", f"{key}={hydra(value)}")]
        self._dvc("exp", "run", "--queue", "--name", experiment.name, *settings, *experiment.targets)

    def _tidy(self, marks: set[str]) -> None:
        """Take entries of the experiments with these marks off the queue that are to be queued anew.

        They failed, or were running when their worker was killed, or have been waiting since an earlier commit.
        """
        queue = self._queue()
        dead = [entry.stash_rev for entry in _entries(queue.iter_active())
                if _mark(entry.name) in marks and not _alive(queue, entry.stash_rev)]
        if dead:
            self._dvc("queue", "kill", "--force", *dead, check=False)
            queue = self._queue()
        head = _git(self.root, "rev-parse", "HEAD").strip()
        failed = [entry.stash_rev for entry in _entries(queue.iter_failed()) if _mark(entry.name) in marks]
        late = [entry.stash_rev for entry in _entries(queue.iter_queued())
                if _mark(entry.name) in marks and entry.baseline_rev != head]
        self._old |= set(failed)
        if failed or late:
            # one of them may begin to run in this moment, which is as good
            self._dvc("queue", "remove", *failed, *late, check=False)

    def _watch(self, watched: _Watched, progress: Any) -> None:
        """Wait until all are finished or failed, or the first ones have all failed."""
        looks = since_news = 0
        while True:
            done = finished(self.root)
            for mark in [mark for mark in watched.left if mark in done]:
                watched.watches[mark].close()
                del watched.left[mark]
                watched.running.pop(mark, None)
                watched.succeeded += 1
                since_news = self._starts = 0
                progress.advance()
            searching = not watched.running and since_news < _LOOKS_FOR_THE_NEXT
            if watched.left and (searching or looks % _LOOKS_BETWEEN_QUEUES == 0):
                since_news = 0 if self._look(watched) else since_news
            if not watched.left or self._hopeless(watched):
                return
            for mark, entry in watched.running.items():
                watched.watches[mark].look(self._output(entry))
            # failed ones do not count as done: they took no time that the others would take
            progress.advance(0, watched.note())
            looks, since_news = looks + 1, since_news + 1
            time.sleep(_SECONDS_BETWEEN_LOOKS)

    def _look(self, watched: _Watched) -> bool:
        """See in the queue what runs and what has failed since; whether there was anything new.

        Raises:
            UserError: nothing runs, however often a worker is started.
        """
        queue = self._queue()
        new = [entry for entry in _entries(queue.iter_failed())
               if _mark(entry.name) in watched.left and entry.stash_rev not in self._old]
        for entry in new:
            self._old.add(entry.stash_rev)
            if experiment := watched.left.pop(_mark(entry.name), None):
                watched.failed.append(experiment.name)
        active = _entries(queue.iter_active())
        alive = [entry for entry in active if _alive(queue, entry.stash_rev)]
        before = dict(watched.running)
        watched.running = {_mark(entry.name): entry.stash_rev for entry in active if _mark(entry.name) in watched.left}
        watched.others = [entry.name or entry.stash_rev for entry in alive
                          if _mark(entry.name) not in watched.watches]
        if new or alive or _workers(self.root):
            self._at_work = time.monotonic()
        elif time.monotonic() - self._at_work > _SECONDS_WITHOUT_WORK:
            self._starts += 1
            if self._starts > _STARTS:
                raise UserError("DVC's queue stands still: no experiment runs, although its worker was started "
                                f"{_STARTS} times; see `dvc queue status` and .dvc/tmp/exps/celery. The same command "
                                "continues")
            done = finished(self.root)
            self._enqueue([e for mark, e in watched.left.items() if mark not in done])
        return bool(new) or watched.running != before

    def _hopeless(self, watched: _Watched) -> bool:
        """Whether all that has run has failed; then what waits is taken off the queue."""
        if watched.succeeded or len(watched.failed) < _FAILURES:
            return False
        for _ in range(_FAILURES):  # DVC removes none of them if one has just begun to run
            waiting = [entry.stash_rev for entry in _entries(self._queue().iter_queued())
                       if _mark(entry.name) in watched.left]
            if not waiting:
                break
            self._dvc("queue", "remove", *waiting, check=False)
        return True

    def _output(self, entry: str) -> str:
        path = self.root / ".dvc" / "tmp" / "exps" / "run" / entry / f"{entry}.out"
        try:
            return path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def _queue(self) -> Any:
        # a new one each time: it caches what it has read
        return Repo(str(self.root)).experiments.celery_queue

    def _dvc(self, *arguments: str, check: bool = True) -> None:
        said = io.StringIO()
        with contextlib.chdir(self.root), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = dvc_main(list(arguments))
        if code == _INTERRUPTED:
            raise KeyboardInterrupt
        if check and code:
            raise UserError(f"dvc {' '.join(arguments)}: failed with {code}: {said.getvalue()[-2000:]}")


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


def _mark(name: str | None) -> str:
    return (name or "").rpartition("-")[2]


def _alive(queue: Any, entry: str) -> bool:
    """Whether the process that runs an entry is there, and is no other that has got its number."""
    try:
        process = queue.proc[entry]
        return process.returncode is None and any(entry in part for part in psutil.Process(process.pid).cmdline())
    except (KeyError, psutil.Error):
        return False


def _workers(root: Path) -> set[int]:
    """Numbers, from 1, of the workers whose processes are there, busy or not."""
    alive = set()
    for path in (root / ".dvc" / "tmp" / "exps" / "celery").glob("dvc-exp-worker-*.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, psutil.Error):
            if "queue-worker" in psutil.Process(read_json(path)["pid"]).cmdline():
                alive.add(int(path.stem.rpartition("-")[2]))
    return alive


def _entries(found: Iterator) -> list:
    """Entries of DVC's queue; a file that the worker moves in this moment is read at the next look."""
    entries = []
    with contextlib.suppress(FileNotFoundError, KeyError, ValueError):
        for each in found:
            entries.append(getattr(each, "entry", each))
    return entries


def _git(root: Path, *arguments: str) -> str:
    shown = git(root, *arguments)
    if shown is None or shown.returncode:
        said = shown.stderr.strip() if shown else "not installed"
        raise UserError(f"git {arguments[0]}: {said}; studies need a Git repository with a commit")
    return shown.stdout
