"""What a benchmark reads (a simulated log, its windows, both prompt layouts), and how much of it."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from stages.common import tables
from stages.common.draws import stream
from stages.common.errors import UserError
from stages.model.load import load_tokenizer
from stages.params import Params, read_all
from stages.prompts.layouts import layout_of
from stages.prompts.log import EventLog

ROOT = Path(__file__).parents[2]
# The simulator knows 35 behaviours, and the comparison is for 37 candidates.
CANDIDATES = 37
_MORE = ("Walking the dog", "Booking a hotel", "Doing laundry", "Visiting a museum", "Repairing a bicycle", "Gardening")


@dataclass(frozen=True)
class Sizes:
    """Ours and the baseline get what keeps each busy for seconds; rates do not depend on it, noise and patience do."""

    rounds: int  # of each side, in turn
    sft_targets: int  # labelled targets of ours, and windows of the baseline
    sft_windows: int
    batches: tuple[int, ...]  # windows a forward pass that the baseline may choose from
    accuracy_seconds: float  # of training on either side, and validation windows afterwards
    accuracy_windows: int
    score_windows: int
    baseline_score_windows: int
    score_batches: tuple[int, ...]  # requests a forward pass that the baseline may choose from
    exact_windows: int  # whose log-probabilities are compared in float32
    pairs: int
    baseline_pairs: int
    predictions: int
    baseline_predictions: int
    rows: tuple[int, ...]  # of raw log, for ingest and windowing, which pandas takes minutes for
    ingest_rounds: int = 1


FULL = Sizes(
    rounds=3, sft_targets=800, sft_windows=16, batches=(1, 4, 8), accuracy_seconds=150, accuracy_windows=120,
    score_windows=96, baseline_score_windows=2, score_batches=(1, 4, 8, 16), exact_windows=2, pairs=32,
    baseline_pairs=8, predictions=300, baseline_predictions=12, rows=(5_000_000, 50_000_000),
)
QUICK = Sizes(
    rounds=2, sft_targets=400, sft_windows=8, batches=(1, 4), accuracy_seconds=45, accuracy_windows=40,
    score_windows=48, baseline_score_windows=1, score_batches=(1, 8), exact_windows=1, pairs=16,
    baseline_pairs=8, predictions=100, baseline_predictions=4, rows=(500_000,),
)
# An accelerator does in a blink what keeps two cores busy for seconds.
_ON_GPU = {
    "sft_targets": 20, "sft_windows": 32, "accuracy_seconds": 1 / 3, "accuracy_windows": 4, "score_windows": 20,
    "baseline_score_windows": 16, "pairs": 16, "baseline_pairs": 16, "predictions": 5, "baseline_predictions": 5,
}


def on_gpu(sizes: Sizes) -> Sizes:
    """As many times as much for an accelerator, in its batches."""
    more = {name: times * getattr(sizes, name) for name, times in _ON_GPU.items()}
    return replace(sizes, batches=(8, 32), score_batches=(16, 64), **more)


@dataclass
class Inputs:
    """What all comparisons of language models read: tables, params, sizes, and two folders.

    `model` holds base.json; `folder` is for what is made on the way.
    """

    events: pl.DataFrame
    windows: pl.DataFrame
    vocabulary: pl.DataFrame
    params: Params
    sizes: Sizes
    model: Path
    folder: Path

    def __post_init__(self) -> None:
        self.log = EventLog.from_tables(self.events, self.vocabulary)
        self.tokenizer = load_tokenizer(self.model)
        # ours: one sequence of events, each a target; the paper's: one prompt a target
        self.stream, self.window = (self._layout(name) for name in ("stream", "window"))
        # numbers of the behaviours that are labels: the anchors, on both sides
        self.trained = np.flatnonzero(self.vocabulary["is_anchor"].to_numpy()).tolist()

    def rows(self, split: str) -> np.ndarray:
        """Rows of a split's targets, ascending."""
        return self.windows.filter(pl.col("split") == split)["row"].sort().to_numpy()

    def labels_among(self, rows: np.ndarray) -> np.ndarray:
        """Those of `rows` whose behaviour is trained on."""
        return rows[np.isin(self.log.behavior[rows], self.trained)]

    def stretches(self, targets: int, seed: int) -> np.ndarray:
        """Rows of training targets in whole stretches of events, as one stream holds them: at least `targets` labelled.

        A seeded choice of stretches; the rows are ascending. Fewer where the log has no more.
        """
        rows = self.rows("train")
        _, stretch = np.unique(self.stream.sequence_starts(rows), return_inverse=True)
        labels = np.bincount(stretch, weights=np.isin(self.log.behavior[rows], self.trained))
        order = stream(seed, "benchmark stretches").permutation(len(labels))
        enough = int(np.searchsorted(np.cumsum(labels[order]), targets)) + 1
        return rows[np.isin(stretch, order[:enough])]

    def _layout(self, name: str) -> Any:
        prompt = self.params.prompt.model_copy(update={"layout": name})
        return layout_of(self.tokenizer, self.log, self.params.model_copy(update={"prompt": prompt}))


def with_source(params: Path, out: Path, /, **source: str) -> Path:
    """Write params with another source to `out`."""
    content = read_all(params).model_dump(by_alias=True)
    content["source"] |= source
    out.write_text(json.dumps(content), encoding="utf-8")  # JSON is YAML
    return out


def simulated(params: Path, sizes: Sizes, model: Path, folder: Path) -> Inputs:
    """Simulate a log and make windows of it by the stages' own commands, in `folder`, whatever source `params` name."""
    copy = with_source(params, folder / "params.json", format="simulated")
    run_stages(copy, folder)
    events, windows, vocabulary = (
        tables.read(name, folder / f"{name}.parquet") for name in ("events", "windows", "vocabulary")
    )
    return Inputs(events, windows, widened(vocabulary, CANDIDATES), read_all(copy), sizes, model, folder)


def widened(vocabulary: pl.DataFrame, candidates: int) -> pl.DataFrame:
    """The vocabulary with behaviours that nobody in the log has, up to `candidates`."""
    more = [name for name in _MORE if name not in set(vocabulary["behavior"])][: max(0, candidates - len(vocabulary))]
    extra = pl.DataFrame({"behavior": more}, schema={"behavior": pl.String}).select(
        "behavior", train_events=0, share=0.0, group=pl.lit("tail"), is_anchor=False
    )
    return pl.concat([vocabulary, extra.cast(dict(vocabulary.schema))])


def run_stages(params: Path, out: Path) -> tuple[float, float]:
    """Make the tables of `ingest` and `windowing` in the folder `out`: seconds and peak gigabytes of both."""
    paths = {name: out / f"{name}.parquet" for name in ("events", "quarantine", "oracle", "windows", "vocabulary")}
    runs = [
        timed("stages.ingest", params=params, taxonomies=out, out=paths["events"], quarantine=paths["quarantine"],
              oracle=paths["oracle"], counts=out / "ingest.json"),
        timed("stages.windowing", params=params, events=paths["events"], out=paths["windows"],
              vocabulary=paths["vocabulary"], counts=out / "windowing.json", plot=out / "frequencies.csv"),
    ]
    return sum(seconds for seconds, _ in runs), max(gigabytes for _, gigabytes in runs)


def timed(module: str, *arguments: Any, **options: Any) -> tuple[float, float]:
    """Wall-clock seconds and peak gigabytes of `python -m module`, a process of its own.

    Raises:
        UserError: with what the command said, where it fails.
    """
    words = [*map(str, arguments), *(f"--{name}={value}" for name, value in options.items())]
    start = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-m", module, *words], cwd=ROOT, text=True, stdout=subprocess.DEVNULL,
                             stderr=subprocess.PIPE)
    said = child.stderr.read() if child.stderr else ""
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise UserError(f"{module} failed:\n{said[-2000:].strip()}")
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    return time.perf_counter() - start, used.ru_maxrss * unit / 1e9
