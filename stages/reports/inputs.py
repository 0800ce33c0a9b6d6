"""What the report is made of, read from where the pipeline leaves it; what is not there yet stays out."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from stages.common import tables
from stages.common.errors import UserError
from stages.common.files import read_json
from stages.common.params import read_yaml
from stages.common.stage import UNFINISHED
from stages.params import Params, read_all
from stages.studies.compare import Estimate, Summary
from stages.studies.definitions import MODELS, predictions_file

COUNTING = ("markov", "past")
BASELINES = ("majority", "last", "frequent", *COUNTING)
ROWS = (*BASELINES, *MODELS, "oracle")
PLOTS = ("frequencies", "embeddings", *(f"{model}/{curve}" for model in MODELS
                                        for curve in ("confusion", "behaviors", "reliability", "coverage")))

# where the pipeline leaves what is read
EVALUATION = "{data}/evaluation/{row}.json"  # all metrics of a row
COUNTS = "{data}/counts/{stage}.json"
HISTORY = "{metrics}/{stage}_history.csv"
PLOT = "{metrics}/plots/{name}.csv"
STUDIES = "{metrics}/studies"
BASE = "{models}/base/base.json"

_NAMES = ("behavior", "actual", "predicted", "kind", "group", "which")  # a behaviour may be called 1 or 07
_NEEDED = ("natural", "balanced", "adjusted", "calibrated", "valid")


@dataclass(frozen=True)
class Paths:
    """Where the pipeline's folders and files lie."""

    params: Path = Path("params.yaml")
    lock: Path = Path("dvc.lock")
    data: Path = Path("data")
    metrics: Path = Path("metrics")
    models: Path = Path("models")

    def find(self, pattern: str, **names: str) -> Path:
        """One of the patterns above with its names put in."""
        return Path(pattern.format(**vars(self), **names))


@dataclass(frozen=True)
class Inputs:
    """Everything the report shows. Tables and counts that do not exist are absent from their dict, or empty.

    Attributes:
        metrics: all of each row, in the order of `ROWS`.
        counts: what the other stages counted, by stage; those of `habits` and `fusion` too.
        history: logged steps of training, by stage.
        plots: the tables behind the plots, by `PLOTS`.
        studies: what `stages.study` wrote, with the `summary` read, and its `source.format` as `log` where it is known.
        ran_with: params as dvc.lock has them, by key; empty without a lock.
        base: what `models/base/base.json` says; None without it.
    """

    params: Params
    metrics: dict[str, dict[str, Any]]
    counts: dict[str, dict[str, Any]]
    history: dict[str, pl.DataFrame]
    plots: dict[str, pl.DataFrame]
    events: pl.DataFrame
    vocabulary: pl.DataFrame
    predictions: dict[str, pl.DataFrame]
    studies: list[dict[str, Any]]
    ran_with: dict[str, Any]
    base: dict[str, Any] | None

    @property
    def simulated(self) -> bool:
        """Whether the log that the numbers are of is the simulator's."""
        return self.counts["ingest"]["format"] == "simulated"

    @cached_property
    def now(self) -> dict[str, Any]:
        """Params of params.yaml by dotted key."""
        return flat(self.params.model_dump(by_alias=True))

    @property
    def used(self) -> dict[str, Any]:
        """The values that the pipeline last ran with, else those of params.yaml, by dotted key."""
        return self.now | {key: value for key, value in self.ran_with.items() if key in self.now}

    @property
    def model(self) -> str:
        """The model furthest along the pipeline: the pool where there is one."""
        return next(name for name in reversed(MODELS) if name in self.metrics)

    def metric(self, row: str, decision: str, name: str) -> Estimate:
        """A metric such as `balanced.tail` of a row whose decision is `plain`, `adjusted` or `calibrated`."""
        split, key = name.split(".")
        section = (self.metrics[row] if decision == "plain" else self.metrics[row][decision]).get(split, {})
        bounds = section.get("interval", {}).get(key, {})
        return Estimate(section.get(key), bounds.get("low"), bounds.get("high"))


def read_inputs(paths: Paths) -> Inputs:
    """Read what there is.

    Raises:
        UserError: the pipeline has not run as far as one model's metrics, or a file is none of ours.
    """
    counts, metrics = _counts(paths), _metrics(paths)
    predictions = {name: path for name in metrics if (path := paths.data / predictions_file(name)).exists()}
    read = {name: paths.data / f"{name}.parquet" for name in ("events", "vocabulary")}
    complete = bool(predictions) and all(path.exists() for path in read.values())
    history = {stage: _csv(paths.find(HISTORY, stage=stage)) for stage in ("sft", "dpo")}
    plots = {name: _csv(paths.find(PLOT, name=name)) for name in PLOTS}
    base = paths.find(BASE)
    return Inputs(
        params=read_all(paths.params), metrics=metrics, counts=counts,
        history={stage: frame for stage, frame in history.items()
                 if frame is not None and "step" in frame.columns and UNFINISHED not in frame.columns},
        plots={name: frame for name, frame in plots.items() if frame is not None and frame.height},
        **{name: tables.read(name, path) if complete else pl.DataFrame() for name, path in read.items()},
        predictions={n: tables.read("predictions", path) for n, path in predictions.items()} if complete else {},
        studies=_studies(paths.find(STUDIES), counts["ingest"]["format"] == "simulated"),
        ran_with=_locked(paths.lock), base=_json(base) if base.exists() else None,
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}); `dvc repro` makes it") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object; `dvc repro` makes it")
    return content


def _counts(paths: Paths) -> dict[str, dict[str, Any]]:
    for stage, key in (("ingest", "format"), ("windowing", "windows")):
        path = paths.find(COUNTS, stage=stage)
        if not path.exists():
            raise UserError(f"{path}: no such file; there is nothing to report before `dvc repro` has run")
        if key not in _json(path):
            raise UserError(f"{path}: it has no {key!r}; run `dvc repro`")
    every = [*sorted(path.parent.glob("*.json")),
             *(paths.find(COUNTS, stage=f"predictions/{stage}") for stage in ("habits", "fusion"))]
    return {path.stem: _json(path) for path in every if path.exists()}


def _metrics(paths: Paths) -> dict[str, dict[str, Any]]:
    every = {row: _json(path) for row in (*ROWS, "oracle_adjusted")
             if (path := paths.find(EVALUATION, row=row)).exists()}
    found = {row: values for row, values in every.items() if values != {}}  # of a real log no oracle is known
    folder = paths.find(EVALUATION, row="").parent
    if not set(MODELS) & found.keys():
        raise UserError(f"{folder}: no metrics of a model there; run `dvc repro`, or `dvc repro evaluate@base` for one")
    ceiling = found.pop("oracle_adjusted", None)
    for name, values in found.items():
        if missing := [key for key in _NEEDED if key not in values]:
            raise UserError(f"{folder}: the metrics of {name} have no {', '.join(missing)}: they were made by an "
                            "earlier version; run `dvc repro`")
    if ceiling:  # its probabilities are adjusted already, with τ = 1
        found["oracle"]["adjusted"] = {"tau": 1.0} | {split: ceiling[split] for split in ("natural", "balanced")}
    return {name: found[name] for name in ROWS if name in found}


def _csv(path: Path) -> pl.DataFrame | None:
    if not path.exists():
        return None
    try:
        return pl.read_csv(path, schema_overrides=dict.fromkeys(_NAMES, pl.String), infer_schema_length=None)
    except pl.exceptions.NoDataError:  # nothing was trained, so nothing was logged
        return None
    except pl.exceptions.PolarsError as error:
        raise UserError(f"{path}: not a readable CSV ({error}); `dvc repro` makes it") from None


def _studies(folder: Path, workspace_is_simulated: bool) -> list[dict[str, Any]]:
    found = []
    for path in [*sorted(folder.glob("*.json")), *sorted(folder.glob("*/*.json"))]:
        content = _json(path)
        try:
            given = {**content.get("setting", {}), **content.get("set", {}), **content.get("overrides", {})}
            wanted = [each.name for each in fields(Summary) if each.default is MISSING or each.name in content]
            summary = Summary.from_json({key: content[key] for key in wanted})
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: not what stages.study writes ({error}); run `python -m stages.study "
                            f"{path.stem} --report-only`") from None
        log = content.get("format", given.get("source.format"))
        # older files do not say which command made them: the folder of a setting has its name
        setting = "" if path.parent == folder else f" --setting {path.parent.name}"
        older = {"title": path.stem, "command": f"python -m stages.study {path.stem}{setting}", "log": log,
                 "simulated": log == "simulated" if log else workspace_is_simulated}
        found.append(older | content | {"summary": summary})
    return found


def _locked(path: Path) -> dict[str, Any]:
    """The params of params.yaml with which the stages ran, by dotted key."""
    if not path.exists():
        return {}
    try:
        given = [stage.get("params", {}).get("params.yaml", {}) for stage in read_yaml(path)["stages"].values()]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a readable dvc.lock ({error})") from None
    return {key: value for params in given for key, value in flat(params).items()}


def flat(params: Mapping[str, Any]) -> dict[str, Any]:
    """Nested params by dotted key."""
    parts = [{f"{key}.{inner}": each for inner, each in flat(value).items()} if isinstance(value, Mapping)
             else {key: value} for key, value in params.items()]
    return {key: value for part in parts for key, value in part.items()}
