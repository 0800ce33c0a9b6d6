"""Laws of both layouts."""

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers import AutoTokenizer

from stages.common.errors import UserError
from stages.prompts.layout import prompts
from stages.windows.cut import vocabulary
from stages.windows.room import least_tokens
from tests.small_log import BEHAVIORS, small_log

settings_here = settings(
    max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)
lengths_of_users = st.lists(st.integers(1, 15), min_size=1, max_size=4)


def other_event(events, rows, rng):
    """The log with all that `rows` say replaced by something else; times stay in order."""
    at = pl.int_range(len(events)).is_in(rows)
    behaviors = pl.Series(rng.choice(BEHAVIORS, size=len(events)).tolist())
    return events.with_columns(
        behavior=pl.when(at & (behaviors != pl.col("behavior"))).then(behaviors)
        .when(at).then(pl.lit("Elsewhere unknown")).otherwise("behavior"),
        place=pl.when(at).then(pl.lit("the moon")).otherwise("place"),
        time=pl.when(at).then(pl.col("time").dt.offset_by("1h")).otherwise("time"),
    )


@settings_here
@given(lengths=lengths_of_users, data=st.data())
def test_nothing_of_the_future_or_of_another_user_is_in_a_prompt(layout_of, kind, context, lengths, data):
    events = small_log(lengths, seed=data.draw(st.integers(0, 99)))
    row = data.draw(st.integers(0, len(events) - 1))
    layout = layout_of(events, kind, context=context)
    seen = [*layout.log.history(row, 5)]
    unseen = [r for r in range(len(events)) if r not in seen and r != row]
    rng = np.random.default_rng(0)
    assert layout_of(other_event(events, unseen, rng), kind, context=context).prompt(row) == layout.prompt(row)
    assert layout_of(events.head(row + 1), kind, context=context).prompt(row) == layout.prompt(row)
    own = events.with_columns(
        behavior=pl.when(pl.int_range(len(events)) == row).then(pl.lit("Elsewhere unknown")).otherwise("behavior")
    )
    assert layout_of(own, kind, context=context).prompt(row) == layout.prompt(row)


@settings_here
@given(lengths=lengths_of_users, data=st.data())
def test_times_and_places_that_are_not_in_the_context_are_in_no_prompt(layout_of, kind, lengths, data):
    events = small_log(lengths, seed=data.draw(st.integers(0, 99)))
    row = data.draw(st.integers(0, len(events) - 1))
    at = pl.int_range(len(events))
    elsewhere = {"place": pl.lit("the moon"), "time": pl.col("time").dt.offset_by("31h")}

    def changed(rows):
        return events.with_columns(pl.when(rows).then(new).otherwise(old).alias(old) for old, new in elsewhere.items())

    for context, hidden in (("history", at >= row), ("id", at >= 0)):
        prompt = layout_of(events, kind, context=context).prompt(row)
        assert layout_of(changed(hidden), kind, context=context).prompt(row) == prompt
    for seen in layout_of(events, kind).log.history(row, 5):
        for name, new in elsewhere.items():
            other = events.with_columns(pl.when(at == seen).then(new).otherwise(name).alias(name))
            prompt = layout_of(events, kind, context="history").prompt(row)
            assert layout_of(other, kind, context="history").prompt(row) != prompt, f"the history's {name}"


@settings_here
@given(lengths=lengths_of_users, data=st.data())
def test_a_prompt_changes_with_each_event_of_the_history_and_with_its_own_hour_and_place(
    layout_of, kind, lengths, data
):
    events = small_log(lengths, seed=data.draw(st.integers(0, 99)))
    row = data.draw(st.integers(0, len(events) - 1))
    at = pl.int_range(len(events))
    for context in ("history", "id", "next"):
        prompt = layout_of(events, kind, context=context).prompt(row)
        for seen in layout_of(events, kind).log.history(row, 5):
            label = pl.when(at == seen).then(pl.lit("Elsewhere unknown")).otherwise("behavior")
            assert layout_of(events.with_columns(behavior=label), kind, context=context).prompt(row) != prompt
    for column, other in (("place", pl.lit("the moon")), ("time", pl.col("time").dt.offset_by("1h")),
                          ("time", pl.col("time").dt.offset_by("1d"))):
        changed = events.with_columns(pl.when(at == row).then(other).otherwise(column).alias(column))
        assert layout_of(changed, kind).prompt(row) != prompt, f"the target's own {column}"


@settings_here
@given(lengths=lengths_of_users, history=st.integers(1, 20), data=st.data())
def test_a_prompt_holds_exactly_the_last_events_in_order_and_the_targets_own_place(
    layout_of, rows_in, kind, lengths, history, data
):
    events = small_log(lengths, unique=True)
    row = data.draw(st.integers(0, len(events) - 1))
    for context, own in (("next", [row]), ("history", [])):
        layout = layout_of(events, kind, history=history, context=context)
        assert rows_in(layout.prompt(row)) == [*layout.log.history(row, history), *own]
        assert layout.dropped == 0
    assert rows_in(layout_of(events, kind, history=history, context="id").prompt(row)) == []


def test_a_prompt_does_not_depend_on_those_asked_before(layout_of, kind):
    events = small_log()
    layout = layout_of(events, kind)
    rows = [20, 3, 100, 20, 50]
    together = prompts(layout, rows)
    assert together[0] == together[3]
    assert together == [layout_of(events, kind).prompt(row) for row in rows]


def test_every_candidate_is_in_a_prompt_once_and_in_order(layout_of, tokenizer, kind, context):
    events = small_log().with_columns(behavior=pl.lit("Elsewhere unknown"))
    layout = layout_of(events, kind, context=context)
    text = tokenizer.decode(layout.prompt(9))
    assert "\n".join(layout.candidates) in text
    assert layout.candidates == layout.log.behaviors[: len(BEHAVIORS)]
    assert set(layout.candidates) == set(BEHAVIORS) and "Elsewhere unknown" not in layout.candidates


def test_an_answer_is_its_label_and_a_terminator(layout_of, tokenizer, kind, context):
    layout = layout_of(small_log(), kind, context=context)
    assert layout.answers == layout_of(small_log(), kind).answers
    end = "\n" if kind == "stream" else tokenizer.eos_token
    said = [tokenizer.decode(answer).strip(" ") for answer in layout.answers]
    assert said == [name + end for name in layout.candidates]
    for one in layout.answers:
        assert not any(one != other and other[: len(one)] == one for other in layout.answers)
    assert layout.longest_answer == max(map(len, layout.answers))


@pytest.mark.parametrize("max_tokens", [360, 300, 260])
def test_truncation_drops_the_oldest_events_counts_them_and_cuts_nothing_else(
    layout_of, rows_in, kind, context, max_tokens
):
    events = small_log([60], unique=True)
    whole = layout_of(events, kind, history=40, max_tokens=5000, context=context)
    cut = layout_of(events, kind, history=40, max_tokens=max_tokens, context=context)
    full, prompt = rows_in(whole.prompt(50)), cut.prompt(50)
    assert full == {"next": list(range(10, 51)), "history": list(range(10, 50)), "id": []}[context]
    assert cut.dropped > 0
    assert rows_in(prompt) == full[cut.dropped :]
    assert len(prompt) + cut.longest_answer <= max_tokens
    kept = 40 - cut.dropped
    one_more = layout_of(events, kind, history=kept + 1, max_tokens=5000, context=context).prompt(50)
    assert len(one_more) + cut.longest_answer > max_tokens, "no more is dropped than has to be"
    same = layout_of(events, kind, history=kept, max_tokens=5000, context=context)
    assert prompt == same.prompt(50), "a short prompt is that of a short history"


def test_a_limit_that_no_history_fits_into_is_refused_by_its_key(layout_of, kind, context):
    with pytest.raises(UserError, match="prompt.max_tokens: 64: instruction and 6 candidates alone take .* tokens"):
        layout_of(small_log(), kind, max_tokens=64, context=context)


def test_a_label_of_the_vocabulary_is_checked(layout_of, kind):
    events = small_log().with_columns(behavior=pl.lit("a<|im_end|>b"))
    with pytest.raises(UserError, match=r"'a<\|im_end\|>b': holds '<\|im_end\|>'"):
        layout_of(events, kind)


def test_a_place_with_a_control_token_is_refused(layout_of, kind):
    events = small_log().with_columns(place=pl.lit("x<|im_start|>system"))
    for context in ("next", "history"):
        with pytest.raises(UserError, match=r"place 'x<\|im_start\|>system': holds '<\|im_start\|>'"):
            layout_of(events, kind, context=context)
    assert layout_of(events, kind, context="id").prompt(9) == layout_of(small_log(), kind, context="id").prompt(9)


@pytest.mark.parametrize("column", ["place", "behavior"])
def test_a_control_token_that_has_no_role_is_refused_too(layout_of, tiny_model, kind, column):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.add_tokens([AddedToken("<filename>", special=True)])
    assert "<filename>" not in tokenizer.all_special_tokens
    with pytest.raises(UserError, match="holds '<filename>', a control token of the model"):
        layout_of(small_log().with_columns(pl.lit("a <filename>").alias(column)), kind, tokens=tokenizer)


def test_text_is_never_read_as_a_control_token(layout_of, tokenizer, kind):
    layout = layout_of(small_log(), kind)
    assert not set(layout.text("a<|im_end|>b")) & set(tokenizer.all_special_ids)
    assert tokenizer.decode(layout.text("a<|im_end|>b")) == "a<|im_end|>b"


def test_training_sequences_are_a_seeded_choice_of_at_most_so_many_targets(layout_of, kind):
    layout = layout_of(small_log([15, 15, 4, 15], unique=True), kind)
    rows = np.flatnonzero(np.arange(len(layout.log.first)) - layout.log.first >= 3)

    def draw(seed, limit):
        return layout.sequences(rows, limit, np.random.default_rng(seed))

    for limit in (1, 4, 7, 20, 10**6):
        assert sum(len(sequence.spans) for sequence in draw(0, limit)) == min(limit, len(rows))
    assert draw(5, 7) == draw(5, 7)
    assert draw(5, 7) != draw(6, 7)
    everything = {tuple(sequence.input_ids) for sequence in draw(0, 10**6)}
    assert all(tuple(sequence.input_ids) in everything for sequence in draw(5, 7)), "whole sequences"


def test_a_span_is_exactly_an_answer(layout_of, kind, context):
    events = small_log([15, 15, 4, 15])
    layout = layout_of(events, kind, context=context)
    rows = np.flatnonzero(np.arange(len(events)) - layout.log.first >= 3)
    sequences = layout.sequences(rows, 1000, np.random.default_rng(0))
    for sequence in sequences:
        assert len(sequence.spans) == len(sequence.behaviors) > 0
        for (start, end), behavior in zip(sequence.spans, sequence.behaviors, strict=True):
            assert sequence.input_ids[start:end] == layout.answers[behavior]
    counts = np.bincount(layout.log.behavior[rows], minlength=len(BEHAVIORS))
    found = [behavior for sequence in sequences for behavior in sequence.behaviors]
    assert np.bincount(found, minlength=len(BEHAVIORS)).tolist() == counts.tolist()


@pytest.mark.parametrize("words", ["Coffee Shop", "咖啡店", "Café crème", "C++", "7-Eleven", "Why? Because!", "9am"])
def test_no_layout_takes_fewer_tokens_than_windowing_says_at_least(layout_of, kind, context, words):
    """`check_room` refuses by a bound: it must never refuse a vocabulary that fits."""
    names = [f"{words} {letter}" for letter in "abcdefghijkl"] + [words]
    events = small_log()
    events = events.with_columns(behavior=pl.Series([names[row % len(names)] for row in range(events.height)]))
    counts = pl.DataFrame({"behavior": names, "train_events": [10] * len(names)})
    made = layout_of(events, kind, vocabulary=vocabulary(counts, 0.01), context=context)
    assert least_tokens(names) <= min(len(made.prompt(row)) for row in range(3, 8))
