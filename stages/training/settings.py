"""How adapters are trained."""

from typing import Annotated, Literal

from pydantic import Field

from stages.common.params import Positive, Rate, Section, Share, key_of
from stages.training.objectives import OBJECTIVES


class Training(Section):
    """What SFT and DPO share."""

    learning_rate: Rate
    min_learning_rate: Annotated[float, Field(ge=0, le=1)]
    warmup: Share
    batch_size: Positive
    epochs: Annotated[float, Field(gt=0, le=1000)]
    validations_per_epoch: Positive
    patience: Positive


class Sft(Training):
    labels: Literal["anchors", "all", "tail", "tail_and_medium", "none"]
    logit_adjustment: Annotated[float, Field(ge=0, le=10)]
    epsilon: Annotated[float, Field(ge=0, le=10)]


class Dpo(Training):
    objective: Annotated[str, key_of(lambda: OBJECTIVES)]
    beta: Annotated[float, Field(gt=0, le=100)]
    nll_weight: Annotated[float, Field(ge=0, le=1000)]
    valid_per_behavior: Positive
