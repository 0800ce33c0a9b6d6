import re

import numpy as np
import polars as pl
import pytest

from stages.common import tables
from stages.common.errors import UserError
from stages.instructions import instructions
from stages.model.load import load_tokenizer
from tests.small_log import all_behaviors, small_log, small_params, small_windows

SPLITS = ["train", "train", "valid", "natural", "balanced", "valid"]
CHATS = pl.DataFrame({"turns": [["Hi", "Hello."], ["One", "Two", "Three", "Four"]]})


@pytest.fixture(scope="module")
def tokenizer(tiny_base):
    return load_tokenizer(tiny_base)


@pytest.fixture(scope="module")
def log():
    events = small_log([30, 25, 20, 10, 10, 15], unique=True)
    return events, small_windows(events, SPLITS)


def make(log, tokenizer, chats=CHATS, **changes):
    return instructions(*log, all_behaviors(), chats, tokenizer, small_params(**changes))


def rows_in(tokenizer, tokens):
    return [int(row) for row in re.findall(r"\bp(\d+)\b", tokenizer.decode(tokens))]


def targets(tokenizer, frame):
    """The row that each span of a table speaks of."""
    return [rows_in(tokenizer, ids[:start])[-1] for ids, starts in frame.select("input_ids", "target_start").iter_rows()
            for start in starts]


@pytest.mark.parametrize("layout", ["stream", "window"])
def test_every_window_of_a_split_becomes_a_target_of_its_table_and_no_other_does(log, tokenizer, layout):
    frames, counts = make(log, tokenizer, prompt__layout=layout)
    events, windows = log
    user = events["user"].to_numpy()
    for split in ("train", "valid"):
        frame = tables.check(frames[split], "instructions", "x")
        rows = windows.filter(split=split)["row"].to_list()
        assert sorted(targets(tokenizer, frame)) == rows
        said = {user[row] for ids in frame["input_ids"] for row in rows_in(tokenizer, ids)}
        assert said == {user[row] for row in rows}, "nothing of another split's users is read"
        assert counts[split]["targets"] == len(rows) and counts[split]["sequences"] == len(frame)
        lengths = frame["input_ids"].list.len()
        assert (counts[split]["tokens"], counts[split]["longest"]) == (lengths.sum(), lengths.max())
        assert counts[split]["tokens_per_target"] == pytest.approx(lengths.sum() / len(rows))
    assert counts["layout"] == layout


def test_all_labels_are_there_for_sft_to_choose_from(log, tokenizer):
    frames, _ = make(log, tokenizer)
    seen = {b for behaviors in frames["train"]["target_behavior"] for b in behaviors}
    anchor = all_behaviors()["is_anchor"].to_list()
    assert {anchor[b] for b in seen} == {True, False}


def test_a_label_stands_where_the_row_says(log, tokenizer):
    events, _ = log
    frames, _ = make(log, tokenizer)
    frame = frames["train"]
    labels = [tokenizer.decode(ids[start:end]) for ids, starts, ends, *_ in frame.iter_rows()
              for start, end in zip(starts, ends, strict=True)]
    numbers = [b for behaviors in frame["target_behavior"] for b in behaviors]
    names = [events["behavior"][row] for row in targets(tokenizer, frame)]
    assert labels == [f" {name}\n" for name in names]
    assert [all_behaviors()["behavior"][number] for number in numbers] == names


def test_limits_and_seed_choose_the_targets(log, tokenizer):
    def drawn(seed):
        frames, counts = make(log, tokenizer, instructions__train_targets=10, instructions__valid_targets=7, seed=seed)
        assert (counts["train"]["targets"], counts["valid"]["targets"]) == (10, 7)
        return frames

    one, again, other = drawn(0), drawn(0), drawn(1)
    assert all(one[name].equals(again[name]) for name in one)
    assert not one["train"].equals(other["train"])


def test_the_order_of_the_windows_does_not_matter(log, tokenizer):
    events, windows = log
    one, _ = make(log, tokenizer, instructions__train_targets=10)
    other, _ = make((events, windows.reverse()), tokenizer, instructions__train_targets=10)
    assert one["train"].equals(other["train"])


def test_conversations_are_marked_at_their_answers(log, tokenizer):
    frames, counts = make(log, tokenizer)
    frame = tables.check(frames["auxiliary"], "instructions", "x")
    said = [tokenizer.decode(ids[start:end]) for ids, starts, ends, *_ in frame.iter_rows()
            for start, end in zip(starts, ends, strict=True)]
    assert said == ["Hello.<|im_end|>", "Two<|im_end|>", "Four<|im_end|>"]
    assert {b for behaviors in frame["target_behavior"] for b in behaviors} == {-1}
    assert counts["auxiliary"] == {"sequences": 2, "tokens": frame["input_ids"].list.len().sum()}


def test_without_conversations_the_table_is_empty(log, tokenizer):
    frames, _ = make(log, tokenizer, chats=CHATS.clear())
    assert tables.check(frames["auxiliary"], "instructions", "x").is_empty()


def test_behaviours_that_no_target_has_and_dropped_events_are_counted(log, tokenizer):
    events, windows = log
    rare = events.with_columns(behavior=pl.lit("Watching video"))
    _, counts = make((rare, windows), tokenizer)
    assert counts["train"]["behaviors_without_target"] == 5 and counts["train"]["events_dropped"] == 0
    _, counts = make(log, tokenizer, prompt__max_tokens=190, prompt__stream_events=30)
    assert counts["train"]["events_dropped"] > 0 and counts["valid"]["events_dropped"] > 0
    assert counts["train"]["longest"] <= 190


@pytest.mark.parametrize("split", ["train", "valid"])
def test_a_split_without_windows_is_refused(log, tokenizer, split):
    events, windows = log
    with pytest.raises(UserError, match=f"no window of split {split}: the log has too few users"):
        make((events, windows.filter(pl.col("split") != split)), tokenizer)


def test_the_seed_of_one_split_is_not_that_of_the_other(log, tokenizer):
    events, _ = log
    twin = pl.concat([events, events.with_columns(pl.col("user") + 6)])
    windows = small_windows(twin, ["train"] * 6 + ["valid"] * 6)
    frames, _ = make((twin, windows), tokenizer, instructions__train_targets=20, instructions__valid_targets=20)
    drawn = [np.array(targets(tokenizer, frames[split])) for split in ("train", "valid")]
    assert drawn[0].tolist() != drawn[1].tolist()
