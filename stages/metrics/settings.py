"""How probabilities become decisions and metrics."""

from typing import Annotated, Literal

from pydantic import Field

from stages.common.params import Section, validated_or


class Evaluate(Section):
    tau: Annotated[float | Literal["validation"], validated_or(0, 10)]
    temperature: Annotated[float | Literal["validation"], validated_or(0.01, 100)]
    resamples: Annotated[int, Field(ge=0, le=100_000)]
    calibration_bins: Annotated[int, Field(ge=2, le=1000)]
