import re

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.common.errors import UserError
from stages.common.tables import PRIOR_TOKENS
from stages.prompts.log import WEEKDAYS
from stages.prompts.stream import clock
from tests.small_log import small_log


def line(log, row):
    """An event as the layout writes it, up to its behaviour."""
    return f"{WEEKDAYS[log.weekday[row]]} {clock(log.hour[row])} {log.places[log.place[row]]}:"


def test_a_prompt_is_the_instruction_then_one_line_an_event(layout_of, tokenizer):
    layout = layout_of(small_log(), history=2)
    log, text = layout.log, tokenizer.decode(layout.prompt(20))
    assert text.startswith(tokenizer.decode(layout.prefix))
    said = text[len(tokenizer.decode(layout.prefix)) :]
    assert said == (
        f"{line(log, 18)} {log.behaviors[log.behavior[18]]}\n{line(log, 19)} {log.behaviors[log.behavior[19]]}\n"
        f"{line(log, 20)}"
    )


def test_without_the_next_context_a_line_begins_with_that_of_the_event_before_or_with_none(layout_of, tokenizer):
    texts = {}
    for context in ("next", "history", "id"):
        layout = layout_of(small_log(), history=2, context=context)
        log, instruction = layout.log, tokenizer.decode(layout.prefix)
        before, _, last = instruction.removesuffix("\n").rpartition("\n")
        texts[context] = before, last, tokenizer.decode(layout.prompt(20)).removeprefix(instruction)
    one, two = (log.behaviors[log.behavior[row]] for row in (18, 19))
    assert len({before for before, *_ in texts.values()}) == 1
    assert texts["next"][1] == "Their log, one activity a line, as day, hour, place: activity"
    assert texts["history"][1:] == (
        "Their log, one activity a line, as day, hour, place of the activity before it: activity",
        f" {one}\n{line(log, 18)} {two}\n{line(log, 19)}",
    )
    assert texts["id"][1:] == ("Their log, one activity a line", f" {one}\n {two}\n")


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None)
@given(lengths=st.lists(st.integers(1, 25), min_size=1, max_size=4), beyond=st.integers(1, 12), seed=st.integers(0, 99))
def test_a_target_is_the_same_in_every_context_behind_the_prompt_of_its_own(layout_of, rows_in, lengths, beyond, seed):
    events, targets = small_log(lengths, seed, unique=True), None
    found = {}
    for context in ("next", "history", "id"):
        layout = layout_of(events, stream_events=3 + beyond, context=context)
        targets = np.flatnonzero(np.arange(len(events)) - layout.log.first >= 3)
        found[context] = layout, layout.sequences(targets, 40, np.random.default_rng(seed))
    rows = [rows_in(sequence.input_ids) for sequence in found["next"][1]]
    for context in ("history", "id"):
        layout, sequences = found[context]
        for said, usual, sequence in zip(rows, found["next"][1], sequences, strict=True):
            assert sequence.behaviors == usual.behaviors
            assert rows_in(sequence.input_ids) == (said[:-1] if context == "history" else [])
            for (start, _), (own_start, end) in zip(usual.spans, sequence.spans, strict=True):
                row = rows_in(usual.input_ids[:start])[-1]
                same = layout_of(events, history=row - said[0], context=context)
                assert sequence.input_ids[:own_start] == same.prompt(row)
                assert sequence.input_ids[own_start:end] == layout.answers[layout.log.behavior[row]]


@pytest.mark.parametrize("context", ["next", "history", "id"])
def test_an_event_that_is_not_of_the_log_is_written_like_one_that_is(layout_of, context):
    layout = layout_of(small_log([9]), context=context)
    log, said = layout.log, list(layout.prefix)
    for row in range(9):
        own_context = int(log.weekday[row]), int(log.hour[row]), log.places[log.place[row]]
        same = layout_of(small_log([9]), history=20, context=context)
        assert same.prompt(row) == said + layout.context_tokens(*own_context)
        said += layout.event_tokens(*own_context, log.behaviors[log.behavior[row]])


def test_hours_are_written_as_people_do():
    assert [clock(hour) for hour in (0, 1, 11, 12, 13, 23)] == ["12am", "1am", "11am", "12pm", "1pm", "11pm"]


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=4), min_history=st.integers(1, 6),
    beyond=st.integers(1, 12), share=st.floats(0.2, 1), seed=st.integers(0, 99),
)
def test_training_sequences(layout_of, rows_in, lengths, min_history, beyond, share, seed):
    """Every target once, none before its time, each after at least `min_history` events of the same user's."""
    events = small_log(lengths, unique=True)
    layout = layout_of(events, min_history=min_history, stream_events=min_history + beyond)
    log, rng = layout.log, np.random.default_rng(seed)
    position = np.arange(len(events)) - log.first
    targets = np.flatnonzero((position >= min_history) & (rng.random(len(events)) < share))
    found = []
    for sequence in layout.sequences(targets, 10**6, rng):
        said = rows_in(sequence.input_ids)
        assert said == list(range(said[0], said[-1] + 1)) and len(said) <= min_history + beyond
        assert log.first[said[0]] == log.first[said[-1]], "events of two users in one sequence"
        for (start, end), behavior in zip(sequence.spans, sequence.behaviors, strict=True):
            before = rows_in(sequence.input_ids[:start])
            row = before[-1]
            found.append(row)
            assert len(before) - 1 >= min_history
            assert behavior == log.behavior[row]
            same = layout_of(events, history=len(before) - 1)
            assert same.prompt(row) + layout.answers[behavior] == sequence.input_ids[:end]
    assert sorted(found) == targets.tolist()


def test_a_target_outside_the_choice_is_history_only(layout_of, rows_in):
    layout = layout_of(small_log([12], unique=True), min_history=3, stream_events=12)
    (sequence,) = layout.sequences(np.array([5, 8]), 100, np.random.default_rng(0))
    assert rows_in(sequence.input_ids) == list(range(12))
    assert [rows_in(sequence.input_ids[:start])[-1] for start, _ in sequence.spans] == [5, 8]


def test_long_sequences_lose_their_oldest_events_and_the_loss_is_counted(layout_of, rows_in, context):
    events = small_log([20], unique=True)
    whole = layout_of(events, stream_events=20, max_tokens=5000, context=context)
    room = {"next": 120, "history": 120, "id": 60}[context]
    cut = layout_of(events, stream_events=20, max_tokens=len(whole.prefix) + room, context=context)
    rows = np.arange(3, 20)
    (full,), (short,) = (layout.sequences(rows, 100, np.random.default_rng(0)) for layout in (whole, cut))
    assert cut.dropped > 0 and whole.dropped == 0
    assert rows_in(short.input_ids) == rows_in(full.input_ids)[cut.dropped :]
    assert len(short.input_ids) <= cut.max_tokens
    kept = len(short.input_ids) - len(cut.prefix)
    assert short.input_ids == cut.prefix + full.input_ids[len(full.input_ids) - kept :]
    assert short.behaviors == whole.log.behavior[cut.dropped + 3 :].tolist()
    longer = layout_of(events, history=20 - cut.dropped, max_tokens=5000, context=context)
    last = longer.answers[longer.log.behavior[19]]
    assert len(longer.prompt(19)) + len(last) > cut.max_tokens, "no more is dropped than has to be"


def test_a_sequence_without_room_for_a_target_is_refused(layout_of):
    with pytest.raises(UserError, match="prompt.stream_events: 4: leaves no target beside the 4 events of windowing"):
        layout_of(small_log(), min_history=4, stream_events=4)
    layout_of(small_log(), min_history=4, stream_events=5)


def test_a_tokenizer_that_begins_texts_with_a_token_begins_prompts_with_it_once(layout_of, tiny_model):
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    for template in ("<|im_start|> $A", "<|im_start|> $A <|im_end|>"):
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=template, special_tokens=[("<|im_start|>", begin), ("<|im_end|>", end)]
        )
        prompt = layout_of(small_log(), tokens=tokenizer).prompt(9)
        assert prompt[0] == begin and prompt.count(begin) == 1 and end not in prompt


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None)
@given(
    places=st.lists(st.text(st.characters(categories=("L", "N", "Zs", "S")), max_size=60), min_size=1, max_size=4),
    lengths=st.lists(st.integers(1, 25), min_size=1, max_size=3), spare=st.integers(0, 60), seed=st.integers(0, 99),
)
def test_no_prompt_and_no_sequence_is_longer_than_the_limit_whatever_the_places(
    layout_of, context, places, lengths, spare, seed
):
    """One token less than instruction, longest context and longest answer is refused; from there on all fits."""
    rng = np.random.default_rng(seed)
    events = small_log(lengths, seed).with_columns(place=pl.Series(rng.choice(places, size=sum(lengths)).tolist()))
    whole = layout_of(events, max_tokens=100_000, history=1, context=context)
    rows = range(len(events))
    contexts = [whole.text(line(whole.log, row)) if context == "next" else [] for row in rows]
    least = len(whole.prefix) + max(map(len, contexts)) + whole.longest_answer
    with pytest.raises(UserError, match=f"prompt.max_tokens: {least - 1}: .* take {least} tokens"):
        layout_of(events, max_tokens=least - 1, context=context)
    layout = layout_of(events, max_tokens=least + spare, stream_events=20, context=context)
    for row, own in zip(rows, contexts, strict=True):
        prompt = layout.prompt(row)
        assert len(prompt) + layout.longest_answer <= least + spare
        assert prompt[len(prompt) - len(own) :] == own, "the target's own context is never cut"
    targets = np.flatnonzero(np.arange(len(events)) - layout.log.first >= 3)
    for sequence in layout.sequences(targets, 10**6, rng):
        assert len(sequence.input_ids) <= least + spare


def test_a_place_that_fits_no_prompt_is_named(layout_of):
    longest = "the waiting room behind the second platform " * 9
    events = small_log().with_columns(
        place=pl.when(pl.int_range(pl.len()) == 50).then(pl.lit(longest)).otherwise(pl.lit("home"))
    )
    with pytest.raises(UserError, match=re.escape(f"or shorten places ({longest[:60]!r}: ")):
        layout_of(events, max_tokens=300)
    layout_of(events.filter(pl.col("place") == "home"), max_tokens=300)


def plain(tokens):
    """The tokens without those that stand for priors, and the rows of these."""
    return [token for token in tokens if token < PRIOR_TOKENS], [t - PRIOR_TOKENS for t in tokens if t >= PRIOR_TOKENS]


def test_the_prior_of_each_event_stands_before_its_label_and_nothing_else_changes(layout_of, rows_in):
    events = small_log(unique=True)
    usual, layout = layout_of(events), layout_of(events, prior="vector")
    for row in (0, 3, 20, 45):
        tokens, rows = plain(layout.prompt(row))
        assert tokens == usual.prompt(row) and rows == rows_in(tokens) and layout.prompt(row)[-1] == PRIOR_TOKENS + row
    targets = np.flatnonzero(np.arange(len(events)) - usual.log.first >= 3)
    for one, other in zip(*(each.sequences(targets, 50, np.random.default_rng(1)) for each in (usual, layout)),
                          strict=True):
        tokens, rows = plain(other.input_ids)
        assert tokens == one.input_ids and rows == rows_in(tokens) and other.rows == one.rows
        assert [other.input_ids[start - 1] - PRIOR_TOKENS for start, _ in other.spans] == one.rows


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None)
@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=3), history=st.integers(1, 6), seed=st.integers(0, 99))
def test_counts_are_those_of_the_events_before_the_first_that_is_told(
    layout_of, rows_in, tokenizer, lengths, history, seed
):
    events = small_log(lengths, seed, unique=True)
    usual, layout = layout_of(events, history=history), layout_of(events, history=history, counts=True)
    log = layout.log
    targets = np.flatnonzero(np.arange(len(events)) - log.first >= 3)
    sequences = layout.sequences(targets, 20, np.random.default_rng(seed)) if len(targets) else []
    for tokens in [*(layout.prompt(row) for row in range(len(events))), *(each.input_ids for each in sequences)]:
        first = rows_in(tokens)[0]
        done = log.behavior[log.first[first] : first]
        said = tokenizer.decode(tokens).removeprefix(tokenizer.decode(layout.prefix)).partition("\n")[0]
        if not len(done):
            assert said == line(log, first) or said.startswith(f"{line(log, first)} ")
            continue
        found = re.fullmatch(r"Earlier, and how often: (.*)", said)[1]
        counts = {name: int(count) for name, count in re.findall(r"(.+?) (\d+)(?:, |$)", found)}
        assert counts == {log.behaviors[each]: int((done == each).sum()) for each in np.unique(done)}
        assert list(counts.values()) == sorted(counts.values(), reverse=True)
    for row in range(len(events)):
        assert len(layout.prompt(row)) >= len(usual.prompt(row))


def test_counts_give_way_where_there_is_no_room(layout_of):
    events = small_log([30])
    usual = layout_of(events, history=3)
    most = max(len(usual.prompt(row)) for row in range(30)) + usual.longest_answer
    tight = layout_of(events, history=3, counts=True, max_tokens=most)
    for row in range(30):
        assert len(tight.prompt(row)) + tight.longest_answer <= most
    assert tight.prompt(2) == usual.prompt(2)


@pytest.mark.parametrize(("changes", "message"), [
    ({"counts": True, "kind": "window"}, "counts: true: layout window has no place for it"),
    ({"prior": "vector", "kind": "window"}, "prior: vector: layout window has no place for it"),
    ({"prior": "logits", "context": "id"}, "prior: logits: it knows an event's time and place, which context id"),
])
def test_what_cannot_be_told_is_refused(layout_of, changes, message):
    with pytest.raises(ValueError, match=message):
        layout_of(small_log(), **changes)
