import numpy as np
import polars as pl
import pytest

from stages.common.errors import UserError
from stages.prompts import window
from stages.prompts.log import WEEKDAYS
from tests.small_log import small_log


def number_of(text):
    """Which of the three instructions a prompt begins with."""
    openings = [instruction.split("{history}")[0] for instruction in window._INSTRUCTIONS]
    (number,) = [number for number, opening in enumerate(openings) if opening in text]
    return number


def test_a_prompt_has_the_papers_parts(layout_of, tokenizer):
    layout = layout_of(small_log(), "window", history=2)
    log, text = layout.log, tokenizer.decode(layout.prompt(20))

    def when(row):
        return f"{WEEKDAYS[log.weekday[row]]}, {log.hour[row]}, {log.places[log.place[row]]}"

    seen = ", ".join(f"({when(row)}, {log.behaviors[log.behavior[row]]})" for row in (18, 19))
    for part in (window._ROLE, seen, f"({when(20)})", "\n".join(layout.candidates)):
        assert text.count(part) == 1
    assert text.startswith("<|im_start|>system\n") and text.endswith("<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize("context", ["history", "id"])
def test_without_the_next_context_no_instruction_speaks_of_it(layout_of, tokenizer, context):
    events = small_log([10], unique=True)
    layout = layout_of(events, "window", history=2, context=context)
    log, usual = layout.log, layout_of(events, "window", history=2)

    def when(row):
        return f"{WEEKDAYS[log.weekday[row]]}, {log.hour[row]}, {log.places[log.place[row]]}"

    for row in range(2, 10):
        text = tokenizer.decode(layout.prompt(row))
        labels = [log.behaviors[log.behavior[r]] for r in (row - 2, row - 1)]
        pairs = zip((row - 2, row - 1), labels, strict=True)
        seen = [f"({when(r)}, {label})" if context == "history" else f"({label})" for r, label in pairs]
        assert text.count(", ".join(seen)) == 1
        assert not any(word in text.lower() for word in ("hour", " day", "happens", "place", when(row)))
        assert number_of(text) == number_of(tokenizer.decode(usual.prompt(row))), "the same way of asking"


def test_without_a_chat_format_a_prompt_asks_for_the_answer_in_plain_text(layout_of, plain_tokenizer):
    layout = layout_of(small_log(), "window", tokens=plain_tokenizer)
    text = plain_tokenizer.decode(layout.prompt(20))
    assert text.startswith(window._ROLE) and text.endswith("\n\nAnswer:") and "<|" not in text
    assert [plain_tokenizer.decode(answer) for answer in layout.answers] == [f" {c}\n" for c in layout.candidates]


def test_the_instruction_is_drawn_by_seed_and_row_alone(layout_of, tokenizer):
    events = small_log()
    rows = range(60)

    def drawn(seed, order):
        layout = layout_of(events, "window", history=1, seed=seed)
        return {row: number_of(tokenizer.decode(layout.prompt(row))) for row in order}

    forward = drawn(0, rows)
    assert forward == drawn(0, reversed(rows))
    assert forward != drawn(1, rows)
    counts = np.bincount(list(forward.values()), minlength=3)
    assert counts.min() > 10, f"three instructions, drawn alike: {counts}"


def test_no_history_is_said_so(layout_of, tokenizer):
    assert "nothing yet" in tokenizer.decode(layout_of(small_log(), "window").prompt(0))


def test_a_training_sequence_is_a_test_prompt_and_its_answer(layout_of, rows_in):
    layout = layout_of(small_log([15, 10], unique=True), "window")
    rows = np.array([3, 7, 9, 20])
    sequences = layout.sequences(rows, 100, np.random.default_rng(0))
    found = []
    for sequence in sequences:
        ((start, end),), (behavior,) = sequence.spans, sequence.behaviors
        row = rows_in(sequence.input_ids)[-1]
        found.append(row)
        assert sequence.input_ids[:start] == layout.prompt(row)
        assert behavior == layout.log.behavior[row] and sequence.input_ids[start:] == layout.answers[behavior]
        assert end == len(sequence.input_ids)
    assert sorted(found) == rows.tolist()


def test_a_place_that_no_prompt_has_room_for_is_named(layout_of):
    events = small_log()
    places = ["home"] * (len(events) - 1) + ["the far end of " * 60]
    layout = layout_of(events.with_columns(place=pl.Series(places)), "window", max_tokens=330)
    assert len(layout.prompt(20)) + layout.longest_answer <= 330
    with pytest.raises(UserError, match=r"prompt\.max_tokens: 330: .*'the far end of"):
        layout.prompt(len(events) - 1)
