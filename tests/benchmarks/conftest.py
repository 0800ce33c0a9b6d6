from dataclasses import replace
from pathlib import Path

import pytest

from stages.benchmarks import machine
from stages.benchmarks.data import Inputs, Sizes
from tests.small_log import all_behaviors, small_log, small_params, small_windows

TINY = Sizes(
    rounds=2, sft_targets=40, sft_windows=4, batches=(1, 2), accuracy_seconds=0.5, accuracy_windows=6, score_windows=6,
    baseline_score_windows=2, score_batches=(4,), exact_windows=2, pairs=6, baseline_pairs=4, predictions=8,
    baseline_predictions=2, rows=(1000,),
)


@pytest.fixture(autouse=True)
def small_peak(monkeypatch):
    """Numbers are compared in float32, and nobody waits for a large product."""
    monkeypatch.setenv("BEHAVIORLM_DTYPE", "float32")
    monkeypatch.setattr(machine.peak, "__defaults__", (64, 0.0))


@pytest.fixture
def sizes():
    return TINY


@pytest.fixture(scope="session")
def tables(tiny_base):
    """A small log of six people and the tiny model."""
    events = small_log()
    windows = small_windows(events, ["train", "train", "train", "train", "valid", "natural"])
    params = small_params(sft__batch_size=4, dpo__batch_size=2)
    return Inputs(events, windows, all_behaviors(), params, TINY, tiny_base, Path())


@pytest.fixture
def inputs(tables, tmp_path):
    return replace(tables, folder=tmp_path)
