"""What stands before a window, against a plain walk through the person's events."""

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.common import tables
from stages.past import counted as counted_module
from stages.past.counted import CONTEXTS, RECENT, count, pieces
from stages.past.counts import counts_before, last_before
from stages.windows.past import NONE, Past

VOCABULARY = pl.DataFrame({"behavior": ["a", "b", "c"], "train_events": [3, 2, 1], "share": [0.5, 0.3, 0.2],
                           "group": ["head"] * 3, "is_anchor": [True] * 3})

event = st.tuples(st.sampled_from("abcxy"), st.sampled_from(["home", "work", None]), st.integers(0, 300))
people = st.lists(st.lists(event, min_size=1, max_size=25), min_size=1, max_size=4)


def log(people) -> pl.DataFrame:
    """Events of the people, times in hours from the first Monday of 2024."""
    rows = []
    for user, events in enumerate(people):
        hours = sorted(hour for _, _, hour in events)
        rows += [(user, hour, place, behavior) for hour, (behavior, place, _) in zip(hours, events, strict=True)]
    frame = pl.DataFrame(rows, schema=["user", "hour", "place", "behavior"], orient="row",
                         schema_overrides={"place": pl.String})
    time = pl.datetime(2024, 1, 1) + pl.duration(hours="hour")
    return frame.select("user", time=time, place="place", behavior="behavior", offset=None).cast(
        tables.SCHEMAS["events"])


def walk(events: pl.DataFrame, row: int, names: list[str]) -> dict:
    """The counts of one window, event by event."""
    rows = events.with_row_index().filter(user=events["user"][int(row)]).rows(named=True)
    at = next(place for place, each in enumerate(rows) if each["index"] == row)
    target = rows[at]

    def context(place: int, part: str):
        each = rows[place]
        return {"hour": each["time"].hour, "place": each["place"], "weekend": each["time"].weekday() >= 5,
                "weekday": each["time"].weekday(), "last": rows[place - 1]["behavior"] if place else None,
                "second": rows[place - 2]["behavior"] if place > 1 else None}[part]

    def alike(place: int, part: str) -> bool:
        here, there = context(at, part), context(place, part)
        return (here - there) % 24 in (0, 1, 23) if part == "hour" else here == there

    def tally(places) -> list[int]:
        done = [rows[place]["behavior"] for place in places]
        return [done.count(name) for name in names]

    before = range(at)
    last = {name: max((place for place in before if rows[place]["behavior"] == name), default=None) for name in names}
    return {
        "contexts": {name: tally([place for place in before if all(alike(place, part) for part in parts)])
                     for name, parts in CONTEXTS.items()},
        "recent": {many: tally(before[-many:]) for many in RECENT},
        "since": [np.inf if place is None else (target["time"] - rows[place]["time"]).total_seconds()
                  for place in last.values()],
    }


@settings(max_examples=40)
@given(people)
def test_everything_is_counted_as_a_walk_counts_it(people):
    events = log(people)
    past = Past.from_tables(events, VOCABULARY)
    rows = np.arange(events.height)
    counted = count(past, rows)
    for row in rows:
        names = [*VOCABULARY["behavior"], *past.labels_outside(row)]
        expected, width = walk(events, row, names), len(names)
        for name, counts in expected["contexts"].items():
            assert counted.contexts[name][row, :width].tolist() == counts, name
        for many, counts in expected["recent"].items():
            assert counted.recent[many][row, :width].tolist() == counts
        assert counted.since[row, :width].tolist() == expected["since"]
        assert counted.allowed[row].sum() == width and counted.allowed[row, :width].all()
        done = events["behavior"][int(row)]
        assert counted.label[row] == (names.index(done) if done in names else NONE)


@given(people, st.randoms(use_true_random=False))
def test_nothing_after_a_window_changes_what_is_counted(people, random):
    events = log(people)
    row = random.randrange(events.height)
    later = pl.int_range(pl.len()) >= row
    other = events.with_columns(behavior=pl.when(later).then(pl.lit("c")).otherwise("behavior"))
    first, second = (count(Past.from_tables(each, VOCABULARY), np.array([row])) for each in (events, other))
    assert first.since.tolist() == second.since.tolist() and first.allowed.tolist() == second.allowed.tolist()
    for name in CONTEXTS:
        assert first.contexts[name].tolist() == second.contexts[name].tolist()
    for many in RECENT:
        assert first.recent[many].tolist() == second.recent[many].tolist()


@settings(max_examples=40)
@given(people, st.lists(st.booleans(), min_size=100, max_size=100))
def test_a_window_is_counted_alike_whichever_stand_beside_it(people, chosen):
    events = log(people)
    past = Past.from_tables(events, VOCABULARY)
    rows = np.flatnonzero(chosen[: events.height])
    if not len(rows):
        return
    together = count(past, rows)
    for place, row in enumerate(rows):
        alone = count(past, rows[place : place + 1])
        width = alone.allowed.shape[1]
        for name in CONTEXTS:
            assert alone.contexts[name][0].tolist() == together.contexts[name][place, :width].tolist()
        assert alone.since[0].tolist() == together.since[place, :width].tolist()
        assert alone.gap[0] == together.gap[place] and alone.stays[0] == together.stays[place], row


def test_no_event_no_window():
    none = np.empty(0, np.int64)
    assert counts_before(none, none, none, none, none, 3).shape == (0, 3)
    assert counts_before(none, none, none, np.array([4]), np.array([1]), 2).tolist() == [[0, 0]]
    assert last_before(none, none, none, np.array([4]), np.array([1]), 2).tolist() == [[-1, -1]]


def test_few_windows_of_a_long_log_read_their_own_persons_events_only(monkeypatch):
    past = Past.from_tables(log([[("a", None, 1)] * 9] * 300), VOCABULARY)
    rows, read = np.array([8, 9 * 150 + 4, 9 * 150 + 7, 9 * 299]), []
    counts = counted_module.counts_before
    monkeypatch.setattr(counted_module, "counts_before",
                        lambda key, *others: read.append(len(key)) or counts(key, *others))
    assert count(past, rows).contexts["all"][:, 0].tolist() == [8, 4, 7, 0]
    assert max(read) == 3 * (8 + 7)  # an event counts for three hours


def test_a_piece_has_few_events(monkeypatch):
    past = Past.from_tables(log([[("a", None, 1)] * 20] * 40), VOCABULARY)
    rows = np.arange(40) * 20 + 19
    monkeypatch.setattr(counted_module, "_EVENTS", 60)
    sizes = [len(rows[piece]) for piece in pieces(past, rows)]
    assert sum(sizes) == 40 and max(sizes) == 4  # three beside the first


def test_parts_are_the_whole(monkeypatch):
    past = Past.from_tables(log([[("a", "home", 1), ("x", None, 2), ("b", "home", 7)] * 3] * 3), VOCABULARY)
    whole = count(past, np.arange(27))
    monkeypatch.setattr(counted_module, "_CELLS_OF_PART", 20)
    parts = list(whole.parts())
    assert len(parts) > 2
    np.testing.assert_array_equal(np.concatenate([each.since for _, each in parts]), whole.since)
    np.testing.assert_array_equal(np.concatenate([each.contexts["hour"] for _, each in parts]), whole.contexts["hour"])
    assert np.concatenate([np.arange(27)[part] for part, _ in parts]).tolist() == list(range(27))


def test_pieces_hold_every_window_once():
    past = Past.from_tables(log([[("a", None, 1)] * 9] * 3), VOCABULARY)
    rows = np.arange(5, 27)
    assert np.concatenate([rows[piece] for piece in pieces(past, rows)]).tolist() == rows.tolist()
