from contextlib import ExitStack

import polars as pl
import pytest

from stages.baselines.api import client as api_client
from stages.baselines.api.cache import Cache
from stages.baselines.fitting.task import Task
from tests.baselines.api.case import KEY, PSEUDONYM, SPLIT_OF_USER, Case
from tests.baselines.api.server import serving
from tests.small_log import all_behaviors, small_log, small_params, small_windows


@pytest.fixture
def case(tmp_path):
    events = small_log((4, 4, 5, 5, 9, 5), unique=True).with_columns(user=pl.col("user") + PSEUDONYM)
    windows = small_windows(events.with_columns(user=pl.col("user") - PSEUDONYM), SPLIT_OF_USER)
    params = small_params(evaluate__resamples=0)
    task = Task(events, windows, all_behaviors(), params, tmp_path / "params.yaml", "next")
    return Case(task, Cache(tmp_path / "answers"))


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(api_client, "FIRST_WAIT", 0.01)


@pytest.fixture
def server(monkeypatch):
    """Starts a server that follows a rule, or gives one reply to all, and has the environment point at it."""
    with ExitStack() as stack:

        def start(rule):
            seen = stack.enter_context(serving(rule if callable(rule) else lambda body, number: rule))
            monkeypatch.setenv("OPENAI_BASE_URL", seen.url)
            return seen

        yield start
