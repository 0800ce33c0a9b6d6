"""How events are written for a model, and what it is trained on."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages.common.params import Positive, Section, Seed
from stages.windows.settings import Windowing


class Prompt(Section):
    layout: Literal["stream", "window"]
    context: Literal["next", "history", "id"]
    counts: bool
    prior: Literal["none", "vector", "logits"]
    max_tokens: Annotated[int, Field(ge=64, le=131072)]
    stream_events: Annotated[int, Field(ge=2)]

    @model_validator(mode="after")
    def _told(self) -> "Prompt":
        if self.layout != "stream" and (self.counts or self.prior == "vector"):
            what = "counts: true" if self.counts else "prior: vector"
            raise ValueError(f"{what}: layout {self.layout} has no place for it; set prompt.layout to stream, or "
                             "prompt.counts to false and prompt.prior to none or logits")
        if self.prior != "none" and self.context != "next":
            raise ValueError(f"prior: {self.prior}: it knows an event's time and place, which context {self.context} "
                             "does not tell; set prompt.context to next, or prompt.prior to none")
        return self


class Auxiliary(Section):
    source: str
    conversations: Positive
    max_tokens: Annotated[int, Field(ge=8)]


class Instructions(Section):
    train_targets: Positive
    valid_targets: Positive


class PromptParams(Section):
    """The sections that every prompt follows from."""

    data_seed: Seed
    windowing: Windowing
    prompt: Prompt
