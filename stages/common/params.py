"""`params.yaml`, read once into frozen sections that refuse unknown keys and values out of range.

Meaning, unit, range and origin of every key stand as comments in `params.yaml`; the types here only enforce them.
"""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stages.common.errors import UserError

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Rate = Annotated[float, Field(gt=0, le=1)]


def _chosen_or(least: float, most: float) -> Any:
    """The type of a value that is chosen on validation windows, or given as a number in a range."""

    def check(value: Any) -> float | str:
        if value == "validation":
            return value
        if isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most:
            return float(value)
        raise ValueError(f"expected `validation`, or a number from {least:g} to {most:g}")

    return Annotated[float | Literal["validation"], PlainValidator(check)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Columns(Section):
    user: str
    time: str
    place: str
    behavior: str


class Source(Section):
    format: Literal["simulated", "table", "foursquare_nyc", "app_usage", "lsapp"]
    path: str
    files: str
    taxonomy: str
    columns: Columns
    time_format: str
    time_zone: str


class Simulator(Section):
    users: Positive
    days: Annotated[int, Field(ge=1, le=3650)]
    events_per_day: Annotated[float, Field(gt=0, le=1000)]


class Ingest(Section):
    max_refused: Share


class Windowing(Section):
    history: Positive
    min_history: Positive
    anchor_threshold: Share
    natural: Positive
    balanced_per_behavior: Positive
    fold: Annotated[int, Field(ge=0, le=9)]

    @model_validator(mode="after")
    def _history_holds_minimum(self) -> "Windowing":
        if self.min_history > self.history:
            raise ValueError(f"min_history {self.min_history} is above history {self.history}")
        return self


class Model(Section):
    name: str
    revision: str


class Prompt(Section):
    layout: Literal["stream", "window"]
    context: Literal["next", "history", "id"]
    max_tokens: Annotated[int, Field(ge=64, le=131072)]
    stream_events: Annotated[int, Field(ge=2)]


class Auxiliary(Section):
    source: str
    conversations: Positive
    max_tokens: Annotated[int, Field(ge=8)]


class Instructions(Section):
    train_targets: Positive
    valid_targets: Positive


class Lora(Section):
    rank: Annotated[int, Field(ge=1, le=1024)]
    alpha: Annotated[float, Field(gt=0)]
    dropout: Annotated[float, Field(ge=0, lt=1)]


class Sft(Section):
    labels: Literal["anchors", "all", "tail", "tail_and_medium", "none"]
    logit_adjustment: Annotated[float, Field(ge=0, le=10)]
    epsilon: Annotated[float, Field(ge=0, le=10)]
    learning_rate: Rate
    min_learning_rate: Annotated[float, Field(ge=0, le=1)]
    warmup: Share
    batch_size: Positive
    epochs: Annotated[float, Field(gt=0, le=1000)]
    validations_per_epoch: Positive
    patience: Positive


class Scoring(Section):
    pool_per_behavior: Positive


class Selection(Section):
    method: Literal["kmeans", "difficulty", "uniform", "hard", "uncertainty", "margin"]
    per_behavior: Positive
    tail_factor: Annotated[float, Field(ge=1, le=1000)]
    lambda_: Annotated[float, Field(alias="lambda", ge=0, le=1)]
    confusion_term: Literal["intended", "literal"]


class Dpo(Section):
    objective: Literal["dpo", "sft"]
    beta: Annotated[float, Field(gt=0, le=100)]
    nll_weight: Annotated[float, Field(ge=0, le=1000)]
    learning_rate: Rate
    min_learning_rate: Annotated[float, Field(ge=0, le=1)]
    warmup: Share
    batch_size: Positive
    epochs: Annotated[float, Field(gt=0, le=1000)]
    validations_per_epoch: Positive
    patience: Positive
    valid_per_behavior: Positive


class Predictions(Section):
    valid_natural: Positive
    valid_per_behavior: Positive


class Evaluate(Section):
    tau: _chosen_or(0, 10)
    temperature: _chosen_or(0.01, 100)
    resamples: Annotated[int, Field(ge=0, le=100_000)]
    calibration_bins: Annotated[int, Field(ge=2, le=1000)]


class Params(Section):
    seed: Seed
    data_seed: Seed
    source: Source
    simulator: Simulator
    ingest: Ingest
    windowing: Windowing
    model: Model
    prompt: Prompt
    auxiliary: Auxiliary
    instructions: Instructions
    lora: Lora
    sft: Sft
    scoring: Scoring
    selection: Selection
    dpo: Dpo
    predictions: Predictions
    evaluate: Evaluate


def read_params(path: Path = Path("params.yaml")) -> Params:
    """Read and check every section, the ones a stage does not use included: a typing error shows before any work.

    Raises:
        UserError: the file is absent or no YAML; a key is unknown or missing; a value is out of its range. All faults
            are named at once, each with its key, its value and what would be right.
    """
    try:
        # YAML 1.2: `5e-5`, and the `2e-05` that `dvc exp run -S` writes, are numbers (PyYAML reads strings)
        content = YAML(typ="safe", pure=True).load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run from the repository's root") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected sections such as `windowing:`, found {type(content).__name__}")
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        faults = [_explain(fault) for fault in error.errors()]
        raise UserError(f"{path}: " + "\n".join(faults)) from None


def _explain(fault: Any) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        close = difflib.get_close_matches(fault["loc"][-1], _known(fault["loc"][:-1]), n=1)
        return f"{key}: no such key" + (f"; did you mean `{close[0]}`?" if close else "")
    if fault["type"] == "missing":
        return f"{key}: missing"
    message = fault["msg"].removeprefix("Value error, ")
    return f"{key}: {message}" if isinstance(fault["input"], dict) else f"{key}: {fault['input']!r}: {message}"


def _known(location: tuple) -> list[str]:
    model: Any = Params
    for part in location:
        model = next(f.annotation for n, f in model.model_fields.items() if part in (n, f.alias))
    return [field.alias or name for name, field in model.model_fields.items()]
