import numpy as np
import pytest

from stages.studies.compare import Comparison, summarise
from stages.studies.planted import Plan, rows, vocabulary

METRICS = [
    *(f"natural.{name}" for name in ("rec_w", "prec_w", "log_loss", "ece", "hr_at_3", "mrr")),
    *(f"balanced.{name}" for name in ("overall", "head", "medium", "tail", "anchors", "non_anchors")),
]


@pytest.fixture
def metrics():
    return METRICS


@pytest.fixture
def study():
    """A planted study and its summary, small: 12 users, 3 repetitions."""

    def make(seed=0, metrics=METRICS, **kind):
        plan = Plan(**{"users": 14, "windows": 5, "behaviors": 6, "repetitions": 3, **kind})
        return rows(plan, np.random.default_rng(seed)), vocabulary(plan.behaviors)

    return make


@pytest.fixture
def summary_of():
    def make(planted, names, reference="old", metrics=METRICS, seed=0, **options):
        options = {"resamples": 60, "flips": 200, **options}
        return summarise(planted, names, reference, Comparison(metrics, **options), np.random.default_rng(seed))

    return make
