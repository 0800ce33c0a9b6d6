"""How long stages take on this machine, learned from the experiments that it ran.

By kind of stage, for estimates; by result, for what a study says its rows took.
"""

import contextlib
import json
import math
from pathlib import Path

from stages.common.files import atomic_file, read_json
from stages.params import Params
from stages.studies.pipeline import RIVALS

LM_RIVALS = ("allmrec", "llara", "collm", "tallrec")
"""Rivals that learn from `instructions.train_targets` windows, as ours do, and not from the whole log."""

_KEPT = 20  # durations of each stage
_RESULTS_KEPT = 5000
_TOOK = "seconds by result"

# Seconds of a stage that nothing is known of: (to start, a unit of work), on two cores with AVX512-BF16 and the
# embedded model; a unit is what `_work` counts.
_FIRST_GUESS = {
    "sft": (15, 1 / 50), "scoring": (8, 1 / 6), "dpo": (15, 0.5), "predictions": (8, 1 / 6), "auxiliary": (90, 0),
    "ingest": (5, 0), "windowing": (4, 0), "instructions": (6, 0), "base": (6, 0), "selection": (4, 0),
    "evaluate": (5, 0), "reference": (8, 0), "embeddings": (8, 0),
    f"{RIVALS}:evaluate": (5, 0), f"{RIVALS}:timing": (30, 0),
    # of one core without AVX512-BF16, and 13 to 17 thousand windows; a setting each
    f"{RIVALS}:gpt2": (0, 3600), f"{RIVALS}:pituning": (0, 3600), f"{RIVALS}:llmesr": (0, 600),
    **{f"{RIVALS}:{name}": (0, 1 / 6) for name in LM_RIVALS},
}
_OTHER, _RIVAL = (5, 0), (0, 120)
_OVERHEAD = 4.0  # of an experiment: DVC's copy of the repository and its commit


class Durations:
    """Durations by stage, in a file of the user's cache."""

    def __init__(self, path: Path, behaviors: int):
        """`behaviors` is the size of the vocabulary, or a guess of it."""
        self.path, self.behaviors = path, behaviors
        self.known, self.took = _read(path)

    def add(self, stage: str, params: Params, seconds: float, key: str | None = None, trials: int = 1) -> None:
        """Remember that `stage` took so long with these params, and its result, by its key in `Pipeline.keys`; `trials`:
        settings that a rival tries."""
        self.known, self.took = _read(self.path)  # another study may have added something
        kind = stage.partition("@")[0]
        rows = self.known.setdefault(kind, [])
        rows.append([self._work(kind, params, trials), round(seconds, 2)])
        del rows[:-_KEPT]
        if key:
            self.took[key] = round(seconds, 2)
            for oldest in list(self.took)[:-_RESULTS_KEPT]:
                del self.took[oldest]
        # a study does not stop because its next estimate will be worse
        with contextlib.suppress(OSError), atomic_file(self.path) as path:
            path.write_text(json.dumps(self.known | {_TOOK: self.took}), encoding="utf-8")

    def seconds(self, stage: str, params: Params, trials: int = 1) -> float:
        """What `stage` is likely to take: the start of the first guess, and the work at the pace seen here.

        Of a rival that learns from the whole log it is what a setting took the last times, whatever the log's size was.
        """
        kind = stage.partition("@")[0]
        start, each = _FIRST_GUESS.get(kind, _RIVAL if kind.startswith(RIVALS) else _OTHER)
        guess = start + each * self._work(kind, params, trials)
        seen = [(first, seconds) for work, seconds in self.known.get(kind, []) if (first := start + each * work)]
        return guess * sum(s for _, s in seen) / sum(g for g, _ in seen) if seen else guess

    def overhead(self) -> float:
        """Seconds of an experiment beside its stages."""
        return _OVERHEAD

    def _work(self, kind: str, params: Params, trials: int) -> float:
        """Targets, windows or pairs, each times its passes; looks at validation data count as a third of training.
        Settings that a rival tries, times its targets where these are given."""
        p, size = params, self.behaviors
        if kind == "sft":
            return p.instructions.train_targets * p.sft.epochs + p.instructions.valid_targets * p.sft.epochs / 3
        if kind == "scoring":
            return size * p.scoring.pool_per_behavior
        if kind == "dpo":
            looks = 1 + p.dpo.epochs * p.dpo.validations_per_epoch
            return size * (min(p.selection.per_behavior, p.scoring.pool_per_behavior) * p.dpo.epochs
                           + looks * p.dpo.valid_per_behavior / 5)
        if kind == "predictions":
            w, v = p.windowing, p.predictions
            return w.natural + v.valid_natural + size * (w.balanced_per_behavior + v.valid_per_behavior)
        if kind.startswith(f"{RIVALS}:"):
            return trials * (p.instructions.train_targets if kind.rpartition(":")[2] in LM_RIVALS else 1)
        return 0.0


def _read(path: Path) -> tuple[dict[str, list[list[float]]], dict[str, float]]:
    """What is known by stage, and by result; of a file that is absent, or none of ours, nothing."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return {}, {}
    if not isinstance(content, dict):
        return {}, {}
    took = content.pop(_TOOK, {})
    known = {kind: seen for kind, rows in content.items()
             if isinstance(rows, list) and (seen := [row for row in rows if _is_duration(row)])}
    return known, {key: value for key, value in took.items() if _is_number(value)} if isinstance(took, dict) else {}


def _is_duration(row: object) -> bool:
    return isinstance(row, list) and len(row) == 2 and all(map(_is_number, row))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value >= 0
