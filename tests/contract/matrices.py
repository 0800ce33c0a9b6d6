"""A stage's matrix in dvc.yaml written out, for tests that look at what stands there."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any


def combinations(matrix: Mapping[str, list]) -> Iterator[dict[str, Any]]:
    """Every combination of a matrix's values; one without any where there is no matrix."""
    for values in itertools.product(*matrix.values()):
        yield dict(zip(matrix, values, strict=True))


def filled(text: str, item: Mapping[str, Any]) -> str:
    """`text` with the values of one combination in it."""
    for key, value in item.items():
        text = text.replace(f"${{item.{key}}}", str(value))
    return text
