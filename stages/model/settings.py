"""Which language model, and the adapter that is trained on it."""

from typing import Annotated

from pydantic import Field

from stages.common.params import Section


class Model(Section):
    name: str
    revision: str


class Lora(Section):
    rank: Annotated[int, Field(ge=1, le=1024)]
    alpha: Annotated[float, Field(gt=0)]
    dropout: Annotated[float, Field(ge=0, lt=1)]
