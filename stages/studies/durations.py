"""How long stages take on this machine, learned from the experiments that it ran.

By kind of stage, for estimates; by result, for what a study says its rows took.
"""

import contextlib
import json
import re
import threading
import time
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter

from stages.common.files import atomic_file, read_json
from stages.params import Params
from stages.studies.pipeline import BASELINES
from stages.studies.plan import Experiment

LANGUAGE_BASELINES = ("allmrec", "llara", "collm", "tallrec")
"""Baselines that learn from `instructions.train_targets` windows, as ours do, and not from the whole log."""

OVERHEAD = 4.0
"""Seconds of an experiment beside its stages: DVC's copy of the repository and its commit."""

_KEPT = 20  # durations of each stage
_RESULTS_KEPT = 5000
_TOOK = "seconds by result"
_Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_CONTENT = TypeAdapter(tuple[dict[str, list[tuple[_Amount, _Amount]]], dict[str, _Amount]])

# Seconds of a stage that nothing is known of: (to start, a unit of work), on two cores with AVX512-BF16 and the
# embedded model; a unit is what `_work` counts.
_FIRST_GUESS = {
    "sft": (15, 1 / 50), "scoring": (8, 1 / 6), "dpo": (15, 0.5), "predictions": (8, 1 / 6), "auxiliary": (90, 0),
    "ingest": (5, 0), "windowing": (4, 0), "instructions": (6, 0), "base": (6, 0), "selection": (4, 0),
    "evaluate": (5, 0), "habits": (20, 0), "fusion": (5, 0), "prior": (5, 0), "reference": (8, 0), "embeddings": (8, 0),
    f"{BASELINES}:evaluate": (5, 0), f"{BASELINES}:timing": (30, 0),
    # of one core without AVX512-BF16, and 13 to 17 thousand windows; a setting each
    f"{BASELINES}:gpt2": (0, 3600), f"{BASELINES}:pituning": (0, 3600), f"{BASELINES}:llmesr": (0, 600),
    **{f"{BASELINES}:{name}": (0, 1 / 6) for name in LANGUAGE_BASELINES},
}
_OTHER, _BASELINE = (5, 0), (0, 120)

# DVC writes "Running stage 'x':", or "Stage 'x' is cached - skipping run" and "Stage 'x' didn't change, skipping"
_STAGE = re.compile(r"(Running stage|Stage) '([^']+)'")
_AT_ONCE = 1.0  # seconds: what is printed within them has been waiting to be read


class Durations:
    """Durations by stage, in a file of the user's cache; safe to use from several threads.

    Attributes:
        known: by kind of stage, (work, seconds) of the last runs.
        took: seconds by a stage's key.
    """

    def __init__(self, path: Path, behaviors: int):
        """`behaviors` is the size of the vocabulary, or a guess of it."""
        self.path, self.behaviors = path, behaviors
        self.known, self.took = _read(path)
        self._lock = threading.Lock()

    def add(self, stage: str, params: Params, seconds: float, key: str | None = None, trials: int = 1) -> None:
        """Remember what `stage` took with these params, by its `key` in `Pipeline.keys` too; `trials` of a baseline."""
        kind = stage.partition("@")[0]
        with self._lock:
            self.known, self.took = _read(self.path)  # another study may have added something
            runs = self.known.setdefault(kind, [])
            runs.append((self._work(kind, params, trials), round(seconds, 2)))
            del runs[:-_KEPT]
            if key:
                self.took[key] = round(seconds, 2)
                for oldest in list(self.took)[:-_RESULTS_KEPT]:
                    del self.took[oldest]
            # a study does not stop because its next estimate will be worse
            with contextlib.suppress(OSError), atomic_file(self.path) as path:
                path.write_text(json.dumps(self.known | {_TOOK: self.took}), encoding="utf-8")

    def seconds(self, stage: str, params: Params, trials: int = 1) -> float:
        """What `stage` is likely to take: the start of the first guess, and the work at the pace seen here.

        Of a baseline that learns from the whole log it is what a setting took the last times, whatever the log's size.
        """
        kind = stage.partition("@")[0]
        start, each = _FIRST_GUESS.get(kind, _BASELINE if kind.startswith(BASELINES) else _OTHER)
        guess = start + each * self._work(kind, params, trials)
        seen = [(first, seconds) for work, seconds in self.known.get(kind, []) if (first := start + each * work)]
        return guess * sum(s for _, s in seen) / sum(g for g, _ in seen) if seen else guess

    def _work(self, kind: str, params: Params, trials: int) -> float:
        """Targets, windows or pairs, each times its passes; validations count as a third of training. Settings that a
        baseline tries, times its targets where these are given."""
        p, size = params, self.behaviors
        if kind == "sft":
            return p.instructions.train_targets * p.sft.epochs + p.instructions.valid_targets * p.sft.epochs / 3
        if kind == "scoring":
            return size * p.scoring.pool_per_behavior
        if kind == "dpo":
            validations = 1 + p.dpo.epochs * p.dpo.validations_per_epoch
            return size * (min(p.selection.per_behavior, p.scoring.pool_per_behavior) * p.dpo.epochs
                           + validations * p.dpo.valid_per_behavior / 5)
        if kind == "predictions":
            w, v = p.windowing, p.predictions
            return w.natural + v.valid_natural + size * (w.balanced_per_behavior + v.valid_per_behavior)
        if kind.startswith(f"{BASELINES}:"):
            return trials * (p.instructions.train_targets if kind.rpartition(":")[2] in LANGUAGE_BASELINES else 1)
        return 0.0


class StageClock:
    """Learns from what an experiment prints how long each of the stages takes that it runs, not those that it skips.

    Attributes:
        stage: the one that was begun last; empty before the first.
        ended: whether there is no more to be read.
    """

    def __init__(self, experiment: Experiment, durations: Durations, under_way: bool = False):
        """`under_way`: the experiment runs already, so that nobody saw its present stage begin."""
        self.experiment, self.durations, self.under_way = experiment, durations, under_way
        self.stage, self.ended = "", False
        self._first: float | None = None
        self._since: float | None = None

    def read(self, line: str) -> None:
        """Read the next line that it printed, when it was printed."""
        now = time.monotonic()
        self._first = self._first or now
        if match := _STAGE.match(line):
            self._learn(now)
            self.stage = match[2]
            seen = match[1] == "Running stage" and not (self.under_way and now - self._first < _AT_ONCE)
            self._since = now if seen else None

    def close(self) -> None:
        """Nothing more is printed: the stage that was seen last has ended."""
        self._learn(time.monotonic())
        self._since, self.ended = None, True

    def _learn(self, now: float) -> None:
        # several lines at once: only the last one's beginning is known
        if self._since is not None and now - self._since >= _AT_ONCE:
            made = self.experiment
            self.durations.add(self.stage, made.params, now - self._since, made.keys.get(self.stage), made.trials)


def _read(path: Path) -> tuple[dict[str, list[tuple[float, float]]], dict[str, float]]:
    """What is known by stage, and by result; of a file that is absent, or none of ours, nothing."""
    try:
        content = read_json(path)
        took = content.pop(_TOOK, {})
        return _CONTENT.validate_python((content, took))
    except (OSError, ValueError, AttributeError, TypeError):
        return {}, {}
