import re

import pytest
from transformers import AutoTokenizer

from stages.prompts.settings import Prompt
from stages.prompts.layouts import make_layout
from stages.prompts.log import EventLog
from tests.small_log import all_behaviors


@pytest.fixture(scope="session")
def tokenizer(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture
def plain_tokenizer(tiny_model):
    """One without a chat format."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = None
    return tokenizer


@pytest.fixture(params=["stream", "window"])
def kind(request):
    """Either layout."""
    return request.param


@pytest.fixture(params=["next", "history", "id"])
def context(request):
    """Whose times and places are in a prompt."""
    return request.param


@pytest.fixture
def layout_of(tokenizer):
    """Makes a layout over a log."""

    def make(events, kind="stream", history=5, min_history=3, max_tokens=2000, stream_events=8, seed=0, tokens=None,
             vocabulary=None, context="next", counts=False, prior="none"):
        prompt = Prompt(layout=kind, context=context, counts=counts, prior=prior, max_tokens=max_tokens,
                        stream_events=stream_events)
        log = EventLog.from_tables(events, all_behaviors() if vocabulary is None else vocabulary)
        return make_layout(tokens or tokenizer, log, prompt, history, min_history, seed)

    return make


@pytest.fixture
def rows_in(tokenizer):
    """Rows that tokens speak of, in order, where every event's place is `p` and its row."""
    return lambda tokens: [int(row) for row in re.findall(r"\bp(\d+)\b", tokenizer.decode(tokens))]
