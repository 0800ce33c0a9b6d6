"""What the report is made of, read from where the pipeline leaves it; what is not there yet stays out."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stages.common import tables
from stages.common.errors import UserError
from stages.common.files import read_json
from stages.params import Params, read_all
from stages.studies.compare import Summary
from stages.studies.definitions import MODELS, predictions_file

ROWS = ("majority", "last", "frequent", "markov", *MODELS, "oracle", "oracle_adjusted")
CURVES = ("confusion", "behaviors", "reliability", "coverage")

_NAMES = ("behavior", "actual", "predicted", "kind", "group", "which")
_NEEDED = ("natural", "balanced", "adjusted", "calibrated")


@dataclass(frozen=True)
class Places:
    """Where things lie."""

    params: Path = Path("params.yaml")
    lock: Path = Path("dvc.lock")
    data: Path = Path("data")
    metrics: Path = Path("metrics")
    models: Path = Path("models")


@dataclass(frozen=True)
class StudyResult:
    """A study's table and what stands beside it.

    Attributes:
        command: what made it.
        commit: of which workspace, with whether that had changed; empty where the file does not say.
        log: `source.format`; None where the file does not say, and then `simulated` is the workspace's.
        note: a remark on it, in a line of Markdown; empty for none.
        way: the shares of a way as a line and a table of Markdown; None for none.
        show_validation: whether the validation scores belong in the table.
        settings: what each row was set to: `model`, `decision`, and params by dotted key under `set`.
    """

    name: str
    title: str
    command: str
    simulated: bool
    summary: Summary
    commit: str = ""
    log: str | None = None
    note: str = ""
    way: str | None = None
    show_validation: bool = False
    settings: Mapping[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Material:
    """Everything the report shows. Tables and counts that do not exist are absent from their dict, or None.

    Attributes:
        metrics: of each row, as `metrics/eval` holds them, in the order of `ROWS`.
        counts: what the other stages counted, by stage.
        history: logged steps of training, by stage.
        curves: the tables behind the plots, by model and name.
        ran_with: params as dvc.lock has them, by key; empty without a lock.
        base: what `models/base/base.json` says.
    """

    params: Params
    metrics: dict[str, dict[str, Any]]
    counts: dict[str, dict[str, Any]]
    history: dict[str, pl.DataFrame]
    curves: dict[str, dict[str, pl.DataFrame]]
    frequencies: pl.DataFrame | None
    embeddings: pl.DataFrame | None
    events: pl.DataFrame | None
    vocabulary: pl.DataFrame | None
    predictions: dict[str, pl.DataFrame]
    studies: list[StudyResult]
    ran_with: dict[str, Any]
    base: dict[str, Any] | None

    @property
    def simulated(self) -> bool:
        """Whether the log that the numbers are of is the simulator's."""
        return self.counts["ingest"]["format"] == "simulated"

    @cached_property
    def now(self) -> dict[str, Any]:
        """params.yaml as it stands, by dotted key."""
        return flat(self.params.model_dump(by_alias=True))

    @cached_property
    def used(self) -> dict[str, Any]:
        """The values that the pipeline last ran with, else those of params.yaml, by dotted key."""
        return {key: self.ran_with.get(key, value) for key, value in self.now.items()}

    @property
    def model(self) -> str:
        """The row furthest along the pipeline: B-Tuning where there is one."""
        return next(name for name in reversed(MODELS) if name in self.metrics)


def gather(places: Places) -> Material:
    """Read what there is.

    Raises:
        UserError: the pipeline has not run as far as one model's metrics, or a file is none of ours.
    """
    counts = _counts(places.metrics)
    metrics = _metrics(places.metrics / "eval")
    predictions = {name: path for name in metrics if (path := places.data / predictions_file(name)).exists()}
    events, vocabulary = places.data / "events.parquet", places.data / "vocabulary.parquet"
    complete = bool(predictions) and events.exists() and vocabulary.exists()
    return Material(
        params=read_all(places.params), metrics=metrics, counts=counts,
        history={name: found for name in ("sft", "dpo")
                 if (found := _csv(places.metrics / f"{name}_history.csv")) is not None and "step" in found.columns},
        curves={model: found for model in MODELS if (found := _curves(places.metrics / "plots" / model))},
        frequencies=_csv(places.metrics / "plots" / "frequencies.csv"),
        embeddings=_csv(places.metrics / "plots" / "embeddings.csv"),
        events=tables.read("events", events) if complete else None,
        vocabulary=tables.read("vocabulary", vocabulary) if complete else None,
        predictions={n: tables.read("predictions", path) for n, path in predictions.items()} if complete else {},
        studies=_studies(places.metrics / "studies", counts["ingest"]["format"] == "simulated"),
        ran_with=_locked(places.lock),
        base=_json(path) if (path := places.models / "base" / "base.json").exists() else None,
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}); `dvc repro` makes it") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object; `dvc repro` makes it")
    return content


def _counts(folder: Path) -> dict[str, dict[str, Any]]:
    for name in ("ingest", "windowing"):
        if not (folder / f"{name}.json").exists():
            raise UserError(f"{folder / name}.json: no such file; there is nothing to report before "
                            "`dvc repro` has run")
    found = {path.stem: _json(path) for path in sorted(folder.glob("*.json"))}
    for name, key in (("ingest", "format"), ("windowing", "windows")):
        if key not in found[name]:
            raise UserError(f"{folder / name}.json: it has no {key!r}; run `dvc repro`")
    return found


def _metrics(folder: Path) -> dict[str, dict[str, Any]]:
    found = {name: _json(path) for name in MODELS if (path := folder / f"{name}.json").exists()}
    if not found:
        raise UserError(f"{folder}: no metrics of a model there; run `dvc repro`, or `dvc repro evaluate@base` for one")
    if (path := folder / "reference.json").exists():
        found |= _json(path)
    for name, values in found.items():
        if missing := [key for key in _NEEDED if not isinstance(values, dict) or key not in values]:
            raise UserError(f"{folder}: the metrics of {name} have no {', '.join(missing)}: they were made by an "
                            "earlier version; run `dvc repro`")
    return {name: found[name] for name in ROWS if name in found}


def _csv(path: Path) -> pl.DataFrame | None:
    if not path.exists():
        return None
    try:
        frame = pl.read_csv(path, infer_schema=False)
        # a behaviour may be called 1 or 07
        return frame.with_columns(_typed(frame[name]) for name in frame.columns if name not in _NAMES)
    except pl.exceptions.NoDataError:  # nothing was trained, so nothing was logged
        return None
    except pl.exceptions.PolarsError as error:
        raise UserError(f"{path}: not a readable CSV ({error}); `dvc repro` makes it") from None


def _typed(column: pl.Series) -> pl.Series:
    """Numbers and truths out of a CSV's text; other text as it is."""
    if column.drop_nulls().is_in(["true", "false"]).all() and column.null_count() < len(column):
        return column == "true"
    for kind in (pl.Int64, pl.Float64):
        number = column.cast(kind, strict=False)
        if number.null_count() == column.null_count():
            return number.cast(pl.Float64) if number.null_count() else number
    return column


def _curves(folder: Path) -> dict[str, pl.DataFrame]:
    return {name: found for name in CURVES if (found := _csv(folder / f"{name}.csv")) is not None}


def _studies(folder: Path, workspace_is_simulated: bool) -> list[StudyResult]:
    found = []
    for path in [*sorted(folder.glob("*.json")), *sorted(folder.glob("*/*.json"))]:
        content = _json(path)
        try:
            given = {**content.get("setting", {}), **content.get("set", {}), **content.get("overrides", {})}
            known = {key: content[key] for key in Summary.__dataclass_fields__}
            summary = Summary.from_json(known)
            settings = {row: of | {"set": given | of["set"]} for row, of in content.get("row_settings", {}).items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: not what stages.study writes ({error}); run `python -m stages.study "
                            f"{path.stem} --report-only`") from None
        log = content.get("format", given.get("source.format"))
        simulated = log == "simulated" if log else workspace_is_simulated
        found.append(StudyResult(
            name=path.stem, title=str(content.get("title", path.stem)), summary=summary, settings=settings, log=log,
            command=content.get("command") or _command(path, folder), commit=content.get("commit") or "",
            simulated=content.get("simulated", simulated), note=content.get("note") or "", way=content.get("gap"),
            show_validation=content.get("show_validation", False),
        ))
    return found


def _command(path: Path, folder: Path) -> str:
    """For files that do not say which command made them: the folder of a setting has its name."""
    return f"python -m stages.study {path.stem}" + ("" if path.parent == folder else f" --setting {path.parent.name}")


def _locked(path: Path) -> dict[str, Any]:
    """The params of params.yaml with which the stages ran, by dotted key."""
    if not path.exists():
        return {}
    try:
        stages = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))["stages"]
        given = [stage.get("params", {}).get("params.yaml", {}) for stage in stages.values()]
    except (YAMLError, KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable dvc.lock ({error})") from None
    return {key: value for params in given for key, value in flat(params).items()}


def flat(params: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested params by dotted key."""
    found: dict[str, Any] = {}
    for key, value in params.items():
        name = f"{above}{key}"
        found |= flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return found


def shown(value: Any) -> str:
    """A param as YAML's readers expect it, a string without quotes."""
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
