"""How events become windows, and which windows are predicted."""

from typing import Annotated

from pydantic import Field, model_validator

from stages.common.params import Count, Positive, Section, Share


class Windowing(Section):
    history: Positive
    min_history: Positive
    anchor_threshold: Share
    natural: Positive
    balanced_per_behavior: Positive
    fold: Annotated[int, Field(ge=0, le=9)]
    train_people: Count
    new_behaviors: Count

    @model_validator(mode="after")
    def _history_holds_minimum(self) -> "Windowing":
        if self.min_history > self.history:
            raise ValueError(f"min_history {self.min_history} is above history {self.history}")
        return self


class Predictions(Section):
    valid_natural: Positive
    valid_per_behavior: Positive


class Scoring(Section):
    pool_per_behavior: Positive
