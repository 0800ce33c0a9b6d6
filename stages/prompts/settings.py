"""How events are written for a model, and what it is trained on."""

from typing import Annotated, Literal

from pydantic import Field

from stages.common.params import Positive, Section, Seed
from stages.windows.settings import Windowing


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


class PromptParams(Section):
    """The sections that every prompt follows from."""

    data_seed: Seed
    windowing: Windowing
    prompt: Prompt
