"""What becomes of labels when all are counted: spellings are merged, names beyond the top join `other`."""

from collections import Counter

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from stages.common.names import case_twins
from stages.events.labels import settle_behaviors, settle_places, tally


def behaviors(counts, top=0):
    """Labels and changes of behaviours of which no taxonomy says anything, from {name: events}."""
    known = pl.DataFrame({"label": list(counts), "name": list(counts)}, schema_overrides={
        "label": pl.String, "name": pl.String}).with_columns(listed=pl.lit(None, pl.String), unlisted=pl.lit(False))
    return settle_behaviors(known, np.array(list(counts.values()), np.int64), top)


def after(counts, top=0):
    settled, result = behaviors(counts, top), Counter()
    for label, events in zip(settled.labels, counts.values(), strict=True):
        result[label] += events
    return +result, settled.changed


def test_spellings_in_another_case_become_the_most_frequent():
    left, changed = after({"Blue Cafe": 6, "Library": 24, "Blue cafe": 12, "BLUE CAFE": 1})
    assert left == {"Blue cafe": 19, "Library": 24}
    assert changed["merged"] == {"names": 2, "events": 7, "most": [
        {"name": "Blue Cafe", "becomes": "Blue cafe", "events": 6},
        {"name": "BLUE CAFE", "becomes": "Blue cafe", "events": 1}]}


def test_among_equals_the_first_by_name_stays_in_whatever_order_they_came():
    assert after({"gaming": 2, "Gaming": 2})[0] == after({"Gaming": 2, "gaming": 2})[0] == {"Gaming": 4}


def test_case_is_what_unicode_says():
    assert after({"straße": 2, "STRASSE": 1})[0] == {"straße": 3}
    assert after({"Ölquelle": 1, "ölquelle": 2})[0] == {"ölquelle": 3}


def test_a_spelling_of_which_no_event_is_left_is_not_said_to_be_merged():
    left, changed = after({"Gaming": 0, "gaming": 2})
    assert left == {"gaming": 2} and changed["merged"]["names"] == 0


def test_top_keeps_the_most_frequent_after_merging():
    left, changed = after({"a": 5, "b": 3, "B": 3, "c": 4, "d": 1}, top=2)
    assert left == {"B": 6, "a": 5, "other": 5}
    assert changed["beyond_top"] == {"names": 2, "events": 5, "most": [
        {"name": "c", "becomes": "other", "events": 4}, {"name": "d", "becomes": "other", "events": 1}]}


def test_top_counts_ties_by_name():
    assert after({"c": 1, "b": 1, "a": 1}, top=2)[0] == {"a": 1, "b": 1, "other": 1}


def test_the_logs_own_other_takes_no_place_and_the_rest_join_it():
    left, changed = after({"Other": 9, "a": 5, "b": 4, "c": 3}, top=2)
    assert left == {"Other": 12, "a": 5, "b": 4}
    assert changed["beyond_top"]["names"] == 1


def test_top_beyond_what_there_is_changes_nothing():
    left, changed = after({"a": 2, "b": 1}, top=2)
    assert left == {"a": 2, "b": 1} and changed["beyond_top"] == {"names": 0, "events": 0, "most": []}


def test_an_unknown_place_stays_unknown():
    known = pl.DataFrame({"label": ["Unknown", "unknown", "Home", "home"]})
    settled = settle_places(known, np.array([5, 1, 1, 3]))
    assert settled.labels.to_list() == ["unknown", "unknown", "home", "home"]
    assert settled.changed["merged"]["names"] == 2


NAMES = st.dictionaries(st.text(st.sampled_from("aAbBßſsSǅıİi"), min_size=1, max_size=3), st.integers(0, 5))


@given(NAMES, st.integers(0, 4))
def test_no_twins_are_left_and_no_event_is_lost(counts, top):
    left, changed = after(counts, top)
    assert case_twins(left) is None
    assert left.total() == sum(counts.values())
    alike = {name.casefold() for name, events in counts.items() if events}
    named = [label for label in left if label != "other"]
    assert len(named) == (min(top, len(alike)) if top else len(alike))
    assert {label.casefold() for label in named} <= alike
    assert changed["beyond_top"]["names"] == len(alike) - len(named)
    for label in named:
        assert left[label] == sum(events for name, events in counts.items() if name.casefold() == label.casefold())
        assert counts[label] == max(n for name, n in counts.items() if name.casefold() == label.casefold())
    if top and changed["beyond_top"]["names"]:
        assert min(left[label] for label in named) >= max(each["events"] for each in changed["beyond_top"]["most"])


@given(st.lists(st.integers(0, 6), max_size=50))
def test_tally_counts(numbers):
    found = tally(np.array(numbers, np.uint8), 7)
    assert found.tolist() == [numbers.count(number) for number in range(7)]
