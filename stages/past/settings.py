"""The model of habits and the pool."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages.common.params import Positive, Rate, Section, Share


class Habits(Section):
    train_windows: Positive
    hidden: Positive
    learning_rate: Rate
    moment_learning_rate: Rate
    weight_decay: Annotated[float, Field(ge=0, le=10)]
    moment_weight_decay: Annotated[float, Field(ge=0, le=10)]
    batch_size: Positive
    steps: Positive
    validations: Positive
    patience: Positive
    left_out: Share


LANGUAGE_MODELS = ("base", "sft", "dpo")


class Fusion(Section):
    model: Literal["base", "sft", "dpo"]
    beside: Annotated[str, Field(pattern=r"^\w+(/\w+)*$")]

    @model_validator(mode="after")
    def _each_once(self) -> "Fusion":
        if self.beside in ("habits", "fusion", self.model):
            raise ValueError(f"beside: {self.beside!r} is in the pool already; name another table of data/predictions, "
                             "such as reference/past")
        if self.beside in LANGUAGE_MODELS:
            raise ValueError(f"beside: {self.beside!r}: a pool has one language model, {self.model!r} (fusion.model); "
                             "name another table of data/predictions, such as reference/past")
        return self
