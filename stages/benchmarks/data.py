"""What all comparisons read: the simulated log of the default params, its windows, and both prompt layouts."""

import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
from ruamel.yaml import YAML
from transformers import PreTrainedTokenizerBase

import stages
from stages.common import tables
from stages.common.draws import stream
from stages.common.errors import UserError
from stages.params import Params, read_all
from stages.model.load import load_tokenizer
from stages.prompts.layout import Layout
from stages.prompts.layouts import layout_of
from stages.prompts.log import EventLog

# The simulator knows 35 behaviours, and the comparison is for 37 candidates.
CANDIDATES = 37
_MORE = ("Walking the dog", "Booking a hotel", "Doing laundry", "Visiting a museum", "Repairing a bicycle", "Gardening")


@dataclass(frozen=True)
class Material:
    """Tables, params and the model folder (with base.json) of a benchmark."""

    events: pl.DataFrame
    windows: pl.DataFrame
    vocabulary: pl.DataFrame
    params: Params
    model: Path

    @cached_property
    def log(self) -> EventLog:
        return EventLog.from_tables(self.events, self.vocabulary)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(self.model)

    @cached_property
    def stream(self) -> Layout:
        """Our layout: one sequence of events, each a target."""
        return self._layout("stream")

    @cached_property
    def window(self) -> Layout:
        """The paper's layout: one prompt a target."""
        return self._layout("window")

    @cached_property
    def trained(self) -> list[int]:
        """Numbers of the behaviours that are labels: the anchors, on both sides."""
        return np.flatnonzero(self.vocabulary["is_anchor"].to_numpy()).tolist()

    def rows(self, split: str) -> np.ndarray:
        """Rows of a split's targets, ascending."""
        return self.windows.filter(pl.col("split") == split)["row"].sort().to_numpy()

    def _layout(self, name: str) -> Layout:
        prompt = self.params.prompt.model_copy(update={"layout": name})
        return layout_of(self.tokenizer, self.log, self.params.model_copy(update={"prompt": prompt}))


def simulated(params: Path, model: Path, folder: Path) -> Material:
    """Simulate a log and make windows of it by the stages' own commands, in `folder`, whatever source `params` name."""
    yaml = YAML()
    content = yaml.load(Path(params).read_text(encoding="utf-8"))
    content["source"]["format"] = "simulated"
    copy = folder / "params.yaml"
    with open(copy, "w", encoding="utf-8") as file:
        yaml.dump(content, file)
    _stage("ingest", params=copy, out=folder / "events.parquet", quarantine=folder / "quarantine.parquet",
           oracle=folder / "oracle.parquet", metrics=folder / "ingest.json")
    _stage("windowing", params=copy, events=folder / "events.parquet", out=folder / "windows.parquet",
           vocabulary=folder / "vocabulary.parquet", metrics=folder / "windowing.json",
           plot=folder / "frequencies.csv")
    return Material(
        events=tables.read("events", folder / "events.parquet"),
        windows=tables.read("windows", folder / "windows.parquet"),
        vocabulary=widened(tables.read("vocabulary", folder / "vocabulary.parquet"), CANDIDATES),
        params=read_all(copy), model=model,
    )


def widened(vocabulary: pl.DataFrame, candidates: int) -> pl.DataFrame:
    """The vocabulary with behaviours that nobody in the log has, up to `candidates`."""
    more = [name for name in _MORE if name not in set(vocabulary["behavior"])][: max(0, candidates - len(vocabulary))]
    extra = pl.DataFrame(
        {"behavior": more, "train_events": [0] * len(more), "share": [0.0] * len(more), "group": ["tail"] * len(more),
         "is_anchor": [False] * len(more)},
        schema=tables.SCHEMAS["vocabulary"],
    )
    return pl.concat([vocabulary, extra])


def stretches(material: Material, targets: int, seed: int) -> np.ndarray:
    """Rows of training targets in whole stretches of events, as one stream holds them: at least `targets` labelled.

    A seeded choice of stretches; the rows are ascending. Fewer where the log has no more.
    """
    rows = material.rows("train")
    _, stretch = np.unique(material.stream.sequence_starts(rows), return_inverse=True)
    labels = np.bincount(stretch, weights=np.isin(material.log.behavior[rows], material.trained))
    order = stream(seed, "benchmark stretches").permutation(len(labels))
    enough = int(np.searchsorted(np.cumsum(labels[order]), targets)) + 1
    return rows[np.isin(stretch, order[:enough])]


def labels_among(material: Material, rows: np.ndarray) -> np.ndarray:
    """Those of `rows` whose behaviour is trained on."""
    return rows[np.isin(material.log.behavior[rows], material.trained)]


def _stage(name: str, **paths: Path) -> None:
    """Run a stage's command as a person would."""
    options = [part for option, path in paths.items() for part in (f"--{option}", str(path.resolve()))]
    ran = subprocess.run(
        [sys.executable, "-m", f"stages.{name}", *options], cwd=Path(stages.__file__).parents[1],
        capture_output=True, text=True, check=False,
    )
    if ran.returncode:
        raise UserError(f"stage {name} failed:\n{ran.stderr.strip()}")
