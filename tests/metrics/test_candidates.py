"""A person's own candidates, and closed tables opened to them, against plain walks through the log."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.common.errors import UserError
from stages.common.tables import SCHEMAS
from stages.metrics.adjust import adjusted, tempered
from stages.metrics.candidates import NO_CANDIDATE, OUTSIDE, OwnCandidates, same
from stages.metrics.curves import OWN, curves
from stages.metrics.decisions import decided
from stages.metrics.opening import IMAGINED, choose_share, mass_of_own
from stages.metrics.outcomes import outcomes
from stages.metrics.settings import Evaluate
from stages.metrics.splits import TEST, VALID, OpenTable, read_splits
from stages.metrics.summary import difference, measure
from stages.studies.compare import Comparison, summarise
from stages.studies.repetitions import Repetition, RowResult

EVALUATE = Evaluate(tau="validation", temperature="validation", resamples=20, calibration_bins=5)
SPLITS = (*TEST, *VALID)

# letters to c are in the vocabulary of `small`
people = st.lists(st.text("abcxyz", min_size=1, max_size=15), min_size=1, max_size=6)


def events_of(people):
    rows = [(user, letter) for user, letters in enumerate(people) for letter in letters]
    frame = pl.DataFrame(rows, schema=["user", "behavior"], orient="row")
    return frame.with_columns(time=np.arange(len(frame)), place=None, offset=None).select(*SCHEMAS["events"]).cast(
        SCHEMAS["events"])


def small(names="abc"):
    size = len(names)
    return pl.DataFrame({
        "behavior": list(names), "train_events": [10 * (size - number) for number in range(size)],
        "share": np.linspace(0.6, 0.1, size), "group": ["head", "medium", "tail"][:size],
        "is_anchor": [True] * size,
    })


def closed(events, vocabulary, seed=0, splits=SPLITS):
    """A table `predictions` of every event, with numbers for the vocabulary only; balanced windows are inside it."""
    rng, size = np.random.default_rng(seed), vocabulary.height
    log_p = np.log(rng.dirichlet(np.ones(size), events.height)).astype(np.float32)
    frame = pl.DataFrame({
        "row": np.arange(events.height), "split": np.resize(splits, events.height), "behavior": events["behavior"],
        "log_p": pl.Series(values=log_p),
    }).cast(SCHEMAS["predictions"])
    return frame.filter(~pl.col("split").str.ends_with("balanced")
                        | pl.col("behavior").is_in(vocabulary["behavior"].implode()))


def walk(events, vocabulary):
    """Each event's own candidates with how often they were done, and how many events came before."""
    past = {}
    for user, behavior in events.select("user", "behavior").iter_rows():
        counts, before = past.get(user, ({}, 0))
        yield dict(counts), before
        if behavior not in vocabulary["behavior"]:
            counts[behavior] = counts.get(behavior, 0) + 1
        past[user] = counts, before + 1


@given(people, st.integers(0, 100))
def test_candidates_are_what_the_person_did_before(people, seed):
    events, vocabulary = events_of(people), small()
    rows = np.random.default_rng(seed).permutation(events.height)
    own = OwnCandidates.of(events, vocabulary, rows)
    walked = list(walk(events, vocabulary))
    assert own.labels.is_sorted() and own.labels.n_unique() == len(own.labels)
    for place, row in enumerate(rows.tolist()):
        counts, before = walked[row]
        assert own.names(place) == list(counts)
        assert own.count[place, : len(counts)].tolist() == list(counts.values()) and own.size[place] == len(counts)
        assert (own.number[place, len(counts) :] == NO_CANDIDATE).all()
        assert not counts or own.before[place] == before
        behavior = events["behavior"][row]
        assert own.truth[place] == (3 + list(counts).index(behavior) if behavior in counts else OUTSIDE)
    part = rows[: len(rows) // 2]
    assert same(own.part(np.arange(len(part))), OwnCandidates.of(events, vocabulary, part))


@given(people, st.integers(0, 100))
def test_opened_rows_are_distributions_in_the_vocabularys_proportions(people, seed):
    events, vocabulary = events_of(people), small()
    frame = closed(events, vocabulary, seed)
    table = OpenTable.of(frame, events, vocabulary)
    windows, walked = table.windows, list(walk(events, vocabulary))
    for place, (row, _, _, before) in enumerate(frame.iter_rows()):
        (counts, events_before), p = walked[row], np.exp(windows.log_p[place].astype(np.float64))
        assert p.sum() == pytest.approx(1, abs=1e-5)
        if not counts:
            assert windows.log_p[place, :3].tolist() == before
            continue
        mass = (sum(counts.values()) + IMAGINED * table.share) / (events_before + IMAGINED)
        times = np.array(list(counts.values())) + 1
        np.testing.assert_allclose(p[: 3 + len(counts)], [*(1 - mass) * np.exp(before), *mass * times / times.sum()],
                                   rtol=1e-4)
        assert (windows.log_p[place, 3 + len(counts) :] == -np.inf).all()


@settings(max_examples=40, deadline=None)
@given(people, st.integers(0, 100))
def test_labels_are_those_of_the_candidates(people, seed):
    events, vocabulary = events_of(people), small()
    frame = closed(events, vocabulary, seed)
    for name, split in read_splits(frame, events, vocabulary).items():
        rows = frame.filter(split=name)["row"]
        for place, row in enumerate(rows):
            candidates = [*vocabulary["behavior"], *(split.own.names(place) if split.own else [])]
            behavior = events["behavior"][row]
            assert split.label[place] == (candidates.index(behavior) if behavior in candidates else OUTSIDE)


def test_two_persons_slots_are_one_behaviour_only_where_their_names_are():
    """x is the first own candidate of one person and the second of the other."""
    events, vocabulary = events_of(["axyxy", "ayxyx"]), small()
    own = OwnCandidates.of(events, vocabulary, np.array([3, 4, 8, 9]))
    assert own.labels.to_list() == ["x", "y"]
    slots = own.truth
    assert slots.tolist() == [3, 4, 3, 4]
    assert own.behavior(slots, 3).tolist() == [3, 4, 4, 3]
    log_p = np.log(np.full((4, 5), 0.2))
    found = outcomes(log_p, slots, own)
    assert found.label.tolist() == [3, 4, 4, 3] and found.size == 5 and found.rank.tolist() == [4, 5, 4, 5]


def figures(found):
    """The result of `measure` without what speaks of windows outside the vocabulary."""
    if not isinstance(found, dict):
        return found
    return {key: figures(value) for key, value in found.items() if key != "opened"}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text("abc", min_size=1, max_size=15), min_size=2, max_size=6), st.integers(0, 100))
def test_without_outside_behaviours_a_table_stays_as_it_is_to_the_bit(people, seed):
    events, vocabulary = events_of(people), small()
    frame = closed(events, vocabulary, seed)
    table = OpenTable.of(frame, events, vocabulary)
    assert table.share is None and table.windows.own is None and table.frame() is frame
    for name, split in table.splits().items():
        part = frame.filter(split=name)
        assert split.log_p.shape == (len(part), 3) and split.log_p.tolist() == part["log_p"].to_list()
    found = measure(frame, events, vocabulary, EVALUATE, 0)
    assert found["opened"] == {"share": None} and found["natural"]["own_candidates"] == 0
    # somebody who is not tested may do what they like
    more = pl.concat([events, events_of(["xyxy"]).with_columns(user=pl.lit(99, pl.UInt64))])
    assert measure(frame, more, vocabulary, EVALUATE, 0) == found


@settings(max_examples=25, deadline=None)
@given(people, st.integers(0, 100))
def test_an_open_table_is_read_as_the_closed_one_that_it_was_made_of(people, seed):
    events, vocabulary = events_of(people), small()
    frame = closed(events, vocabulary, seed)
    table = OpenTable.of(frame, events, vocabulary)
    again = OpenTable.of(table.frame(), events, vocabulary)
    assert again.share is None and again.frame().equals(table.frame())
    np.testing.assert_array_equal(again.windows.log_p, table.windows.log_p)
    one, other = (measure(each, events, vocabulary, EVALUATE, 0) for each in (frame, table.frame()))
    assert figures(one) == figures(other)


@settings(max_examples=25, deadline=None)
@given(people, st.randoms(use_true_random=False))
def test_the_order_of_persons_changes_nothing(people, random):
    events, vocabulary = events_of(people), small()
    frame = closed(events, vocabulary)
    order = list(range(len(people)))
    random.shuffle(order)
    rows = [np.flatnonzero((events["user"] == user).to_numpy()) for user in order]
    moved = events[np.concatenate(rows)]
    place = np.argsort(np.concatenate(rows))
    there = frame.with_columns(row=pl.Series(place[frame["row"]])).sort("split", "row")
    one, other = (measure(table, log, vocabulary, EVALUATE, 0) for table, log in ((frame, events), (there, moved)))

    def compare(left, right):
        assert left.keys() == right.keys()
        for key, value in left.items():
            if isinstance(value, dict):
                compare(value, right[key])
            else:
                assert value == right[key] or value == pytest.approx(right[key], rel=1e-3, abs=1e-6), key

    compare(one, other)


def test_the_share_is_the_one_of_least_loss():
    events, vocabulary = events_of(["abcx" + "abx" * 40] * 8), small()
    rows = np.arange(events.height)
    own = OwnCandidates.of(events, vocabulary, rows)
    behavior = events["behavior"]
    named = (behavior.is_in(vocabulary["behavior"].implode()) | pl.Series(own.truth != OUTSIDE)).to_numpy()
    share = choose_share(own, named)

    def loss(share):
        mass = mass_of_own(own, share)
        p = np.where(own.truth != OUTSIDE, mass, 1 - mass)
        return -np.log(p[named & (own.size > 0)]).sum()

    assert loss(share) < min(loss(share * 0.8), loss(min(share * 1.2, 0.999))) + 0.1
    assert choose_share(own.part(rows[:0]), named[:0]) == pytest.approx(0.1, abs=1e-3)


@given(st.floats(0.1, 2), st.integers(0, 50))
def test_an_own_candidate_is_lifted_as_the_rarest_behaviour_is(tau, seed):
    share = np.array([0.7, 0.2, 0.1])
    log_p = np.log(np.random.default_rng(seed).dirichlet(np.ones(5), 4))
    log_p[0, 4] = -np.inf
    log_p[0] -= np.log(np.exp(log_p[0]).sum())
    moved = adjusted(log_p, share, tau)
    np.testing.assert_allclose(np.exp(moved).sum(axis=1), 1, rtol=1e-5)
    assert moved[0, 4] == -np.inf
    np.testing.assert_allclose(moved[:, 3] - moved[:, 2], log_p[:, 3] - log_p[:, 2], atol=1e-5)
    np.testing.assert_allclose(np.exp(tempered(log_p, 2.0)).sum(axis=1), 1)


def test_a_persons_own_behaviour_is_predicted():
    """End to end: two of three do something of their own half of the time, which no candidate of the vocabulary is."""
    events, vocabulary = events_of(["ax" * 30, "by" * 30, "abc" * 20, "cz" * 30]), small()
    frame = closed(events, vocabulary, splits=("natural", "valid_natural", "valid_natural", "natural",
                                               "valid_balanced", "balanced", "balanced"))
    found = measure(frame, events, vocabulary, EVALUATE, 0)
    natural = found["natural"]
    assert natural["outside_candidates"] == sum(
        row in {1, 61, 181} for row in frame.filter(split="natural")["row"])
    assert natural["own_candidates"] > 0.3 * natural["windows"]
    # knowing the persons' habits and nothing else: right in about half of the windows of those with one
    assert natural["rec_w"] > 0.3 and found["opened"]["share"] > 0
    drawn = curves(frame, events, vocabulary, EVALUATE, found)["confusion"]
    assert OWN in drawn["predicted"] and not {"x", "y", "z"} & set(drawn["predicted"])
    # a system that knows better says so in an open table
    table = OpenTable.of(frame, events, vocabulary)
    windows = table.windows
    right = np.flatnonzero(windows.label != OUTSIDE)
    log_p = np.where(np.isfinite(windows.log_p), np.log(0.01), -np.inf)
    log_p[right, windows.label[right]] = 0
    log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    better = frame.with_columns(log_p=pl.Series([row[np.isfinite(row)].tolist() for row in log_p])).cast(
        SCHEMAS["predictions"])
    assert measure(better, events, vocabulary, EVALUATE, 0)["natural"]["rec_w"] == pytest.approx(
        1 - natural["outside_candidates_share"])
    gained = difference(better, frame, events, vocabulary, EVALUATE, 0)["natural"]
    assert gained["rec_w"]["difference"] > 0 and gained["prec_w"]["difference"] > 0
    # studies say the same, logits adjusted or not
    rows = [RowResult(name, "", [Repetition(0, decided(opened.frame(), vocabulary["share"].to_numpy(), 0.5),
                                            opened.windows.user, own=opened.windows.own)])
            for name, opened in (("plain", table), ("better", OpenTable.of(better, events, vocabulary)))]
    summary = summarise(rows, vocabulary, "plain", Comparison(["natural.rec_w", "natural.prec_w"], resamples=5),
                        np.random.default_rng(0))
    fixed = EVALUATE.model_copy(update={"tau": 0.5})
    for row, each in zip(summary.rows, (frame, better), strict=True):
        expected = measure(each, events, vocabulary, fixed, 0)["adjusted"]["natural"]
        for key in ("rec_w", "prec_w"):
            assert row.metrics[f"natural.{key}"].mean.value == pytest.approx(expected[key])
    assert summary.outside == [natural["outside_candidates"]]
    other = replace(rows[1].repetitions[0], own=None, predictions=frame)
    with pytest.raises(UserError, match="other test windows at repetition 0"):
        summarise([rows[0], replace(rows[1], repetitions=[other])], vocabulary, "plain",
                  Comparison(["natural.rec_w"], resamples=5), np.random.default_rng(0))


def test_a_table_that_is_neither_closed_nor_open_is_refused():
    events, vocabulary = events_of(["axbxx"]), small()
    frame = closed(events, vocabulary)
    open_ = OpenTable.of(frame, events, vocabulary).frame()
    mixed = pl.concat([frame.head(-1), open_.tail(1)])
    with pytest.raises(UserError, match="another vocabulary than this one of 3 .the window of row .* has 3 values"):
        OpenTable.of(mixed, events, vocabulary)
