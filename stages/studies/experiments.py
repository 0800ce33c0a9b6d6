"""A plan's experiments on DVC's queue: those that are finished stay, the others are queued, run and watched."""

import contextlib
import io
import os
import re
import subprocess
import sysconfig
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dvc.cli import main as dvc_main
from dvc.repo import Repo

from stages.common.console import console, track
from stages.common.errors import UserError
from stages.studies.durations import Durations
from stages.studies.plan import Experiment

# Finished experiments are refs of Git, quick to list; opening DVC's queue takes half a second of a core.
_SECONDS_BETWEEN_LOOKS, _LOOKS_BETWEEN_QUEUES = 2.0, 5
_STAGE = re.compile(r"^Running stage '([^']+)':", re.MULTILINE)
# namespaces of refs/exps that DVC keeps for itself
_NOT_EXPERIMENTS = {"stash", "celery", "exec", "temp", "pushed", "running"}


def finished(root: Path) -> dict[str, str]:
    """The mark at the end of every finished experiment's name, and its commit, whatever commit it started from."""
    listed = _git(root, "for-each-ref", "--format=%(refname) %(objectname)", "refs/exps")
    found = {}
    for line in listed.splitlines():
        ref, commit = line.split()
        parts = ref.split("/")
        if len(parts) >= 5 and parts[2] not in _NOT_EXPERIMENTS:
            found[parts[-1].rpartition("-")[2]] = commit
    return found


@dataclass
class Queue:
    """DVC's queue of experiments in one repository.

    Queued experiments are run by a worker of DVC's, one after the other, that goes on when this process is stopped.
    """

    root: Path
    durations: Durations
    _running: dict[str, "StageWatch"] = field(default_factory=dict)

    def run(self, experiments: Sequence[Experiment]) -> None:
        """Run those of `experiments` that are not finished, and wait for them.

        Raises:
            UserError: one failed; the others have been run, and the message says how to see what it said.
        """
        missing = [e for e in experiments if e.mark not in finished(self.root)]
        if not missing:
            return
        self._tidy()
        waiting = {entry.name for entry in self._entries("iter_queued", "iter_active")}
        with track("queueing experiments", len(missing)) as progress:
            for experiment in missing:
                if experiment.name not in waiting:
                    self._put(experiment)
                progress.advance()
        self._dvc("queue", "start", "--jobs", "1")
        try:
            failed = self._watch(missing)
        except KeyboardInterrupt:
            console.print("\nno longer watching; the worker goes on with the queue. `dvc queue status` shows it, "
                          "`dvc queue stop --kill` ends it, and the same command continues.", soft_wrap=True)
            raise
        if failed:
            raise UserError(f"{len(failed)} of {len(missing)} experiments failed: {', '.join(failed)}; see "
                            f"`dvc queue logs {failed[0]}`. The same command tries them again, and runs nothing twice")

    def _put(self, experiment: Experiment) -> None:
        settings = [part for key, value in experiment.overrides.items() for part in ("-S", f"{key}={_hydra(value)}")]
        self._dvc("exp", "run", "--queue", "--name", experiment.name, *settings, *experiment.targets)

    def _watch(self, experiments: Sequence[Experiment]) -> list[str]:
        """Wait until all are finished or failed; the names of the failed ones."""
        left = {experiment.mark: experiment for experiment in experiments}
        failed: list[str] = []
        watches = {e.mark: StageWatch(e, self.durations) for e in experiments}
        turn = 0
        with track("experiments", len(experiments)) as progress:
            while left:
                turn += 1
                done = finished(self.root)
                for mark in [mark for mark in left if mark in done]:
                    watches[mark].close()
                    del left[mark]
                    progress.advance()
                if left and turn % _LOOKS_BETWEEN_QUEUES == 0:
                    queue = self._queue()
                    for name in self._failed(queue, left.values()):
                        failed.append(name)
                        del left[next(mark for mark, e in left.items() if e.name == name)]
                        progress.advance()
                    for entry in _ignoring_races(queue.iter_active()):
                        if watch := next((watches[m] for m, e in left.items() if e.name == entry.name), None):
                            self._running[entry.stash_rev] = watch
                for stash_rev, watch in self._running.items():
                    watch.look(self._output(stash_rev))
                time.sleep(_SECONDS_BETWEEN_LOOKS)
        return failed

    def _failed(self, queue: Any, experiments: Iterable[Experiment]) -> list[str]:
        names = {experiment.name for experiment in experiments}
        return [result.entry.name for result in _ignoring_races(queue.iter_failed()) if result.entry.name in names]

    def _tidy(self) -> None:
        """Take what failed, and what was running when its worker was killed, off the queue: it is to be tried again."""
        dead = [entry.name for entry in self._entries("iter_active") if not self._alive(entry.stash_rev)]
        if dead:
            self._dvc("queue", "kill", "--force", *dead, check=False)
        if any(True for _ in _ignoring_races(self._queue().iter_failed())):
            self._dvc("queue", "remove", "--failed")

    def _alive(self, stash_rev: str) -> bool:
        try:
            os.kill(self._queue().proc[stash_rev].pid, 0)
        except (KeyError, ProcessLookupError):
            return False
        return self._queue().proc[stash_rev].returncode is None

    def _output(self, stash_rev: str) -> str:
        try:
            path = self.root / ".dvc" / "tmp" / "exps" / "run" / stash_rev / f"{stash_rev}.out"
            return path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def _entries(self, *kinds: str) -> list:
        queue = self._queue()
        return [entry for kind in kinds for entry in _ignoring_races(getattr(queue, kind)())]

    def _queue(self) -> Any:
        # a new one each time: it caches what it has read
        return Repo(str(self.root)).experiments.celery_queue

    def _dvc(self, *arguments: str, check: bool = True) -> None:
        said = io.StringIO()
        # the worker is started by the name `dvc`, also where the environment is not activated
        os.environ["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
        with contextlib.chdir(self.root), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = dvc_main(list(arguments))
        if check and code:
            raise UserError(f"dvc {' '.join(arguments)}: failed with {code}: {said.getvalue()[-2000:]}")


class StageWatch:
    """Learns from an experiment's output how long each of its stages takes."""

    def __init__(self, experiment: Experiment, durations: Durations):
        self.experiment, self.durations = experiment, durations
        self.seen: list[str] = []
        self.since = 0.0

    def look(self, output: str) -> None:
        """Read all that has been printed so far."""
        begun = _STAGE.findall(output)
        if len(begun) > len(self.seen):
            self.close()
            # several since the last look: only the last one's beginning is known
            self.seen, self.since = begun, time.monotonic()

    def close(self) -> None:
        """The stage that was seen last has ended."""
        if self.seen and self.since:
            self.durations.add(self.seen[-1], self.experiment.params, time.monotonic() - self.since)
        self.since = 0.0


def _hydra(value: object) -> str:
    """A value as Hydra's grammar reads it back: text is quoted where it must be."""
    if isinstance(value, bool) or value is None:
        return str(value).lower() if value is not None else "null"
    if isinstance(value, str):
        return value if re.fullmatch(r"[A-Za-z][\w./-]*", value) else "'" + value.replace("'", "\\'") + "'"
    return repr(value)


def _ignoring_races(entries: Iterator) -> Iterator:
    """Entries of DVC's queue; a file that the worker moves in this moment is read at the next look."""
    try:
        yield from entries
    except (FileNotFoundError, KeyError, ValueError):
        return


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True).stdout
