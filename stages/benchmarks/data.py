"""The simulated log of the default params, its windows, and both prompt layouts."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from stages.benchmarks.sizes import Sizes
from stages.common import tables
from stages.common.errors import UserError
from stages.model.load import load_tokenizer
from stages.params import Params, read_all
from stages.prompts.layouts import layout_of
from stages.prompts.log import EventLog

ROOT = Path(__file__).parents[2]
# The simulator knows 35 behaviours, and the comparison is for 37 candidates.
CANDIDATES = 37
_MORE = ("Walking the dog", "Booking a hotel", "Doing laundry", "Visiting a museum", "Repairing a bicycle", "Gardening")


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
        self.log = EventLog.of(self.events, self.vocabulary)
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
        _, stretch = np.unique(self.stream.starts_of(rows), return_inverse=True)
        labels = np.bincount(stretch, weights=np.isin(self.log.behavior[rows], self.trained))
        order = np.random.default_rng([seed, 11]).permutation(len(labels))
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
    """Make the tables of `ingest` and `windowing` in the folder `out`: seconds and peak gigabytes of both.

    Raises:
        UserError: with what the command said, where it fails.
    """
    paths = {name: out / f"{name}.parquet" for name in ("events", "quarantine", "oracle", "windows", "vocabulary")}
    runs = [
        timed("stages.ingest", params=params, taxonomies=out, out=paths["events"], quarantine=paths["quarantine"],
              oracle=paths["oracle"], counts=out / "ingest.json"),
        timed("stages.windowing", params=params, events=paths["events"], out=paths["windows"],
              vocabulary=paths["vocabulary"], counts=out / "windowing.json", plot=out / "frequencies.csv"),
    ]
    return sum(seconds for seconds, _ in runs), max(gigabytes for _, gigabytes in runs)


def timed(module: str, *arguments: Any, **options: Any) -> tuple[float, float]:
    """Wall-clock seconds and peak gigabytes of `python -m module`, a process of its own."""
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
