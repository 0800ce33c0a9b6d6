"""One person's state counts, and the model of habits answers, as for a log with the same events."""

from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.common import tables
from stages.past.counted import count
from stages.past.counting import Markov
from stages.past.habits import Habits
from stages.past.network import Network
from stages.past.numbers import NAMES, moment_sizes
from stages.past.population import Population
from stages.past.whole import WholePast
from stages.serving import past as module
from stages.serving.habits import log_p
from stages.serving.past import Circumstances, Known, PersonalPast
from stages.windows.past import Past
from tests.small_log import BEHAVIORS, PLACES, all_behaviors, small_log, small_windows

START = datetime(2024, 3, 1)
event = st.tuples(st.sampled_from([*BEHAVIORS, "Swimming", "Fishing", "Chess"]),
                  st.sampled_from([*PLACES, "unknown", "the moon", "Mars"]), st.sampled_from([0, 0, 7, 60, 900, 3000]),
                  st.sampled_from([None, -300, 120]))
events = st.lists(event, min_size=1, max_size=40)


def habits(places: bool = True) -> Habits:
    """A model with weights that nobody trained, so that every number matters."""
    import torch

    log = small_log()
    log = log if places else log.with_columns(place=pl.lit("unknown"))
    windows, vocabulary = small_windows(log, ["train"] * 4 + ["valid"] * 2), all_behaviors()
    past = Past.from_tables(log, vocabulary)
    markov = Markov().fit(past, windows, vocabulary)
    torch.manual_seed(0)
    network = Network(len(NAMES), sum(moment_sizes(past.size, len(markov.places))), past.size, 8)
    for weight in network.parameters():
        weight.data.normal_(0, 0.3)
    people = Population(markov, int(vocabulary["train_events"].sum()))
    return Habits(network.weights(), people, WholePast().fit_on(markov, past, windows, vocabulary))


MODELS = {True: habits(True), False: habits(False)}


def table(events) -> pl.DataFrame:
    """One person's log; times between two events in minutes."""
    minutes, rows = 0, []
    for behavior, place, after, offset in events:
        minutes += after
        # sorted by instant, which is behind local time by the offset
        rows.append((0, START + timedelta(minutes=minutes + (offset or 0)), place, behavior, offset or 0))
    return pl.DataFrame(rows, schema=["user", "time", "place", "behavior", "offset"], orient="row").cast(
        tables.SCHEMAS["events"])


def followed(model: Habits, frame: pl.DataFrame):
    """A person's state before each event, and the event's circumstances."""
    person = PersonalPast(Known(BEHAVIORS, model.people.markov.places.to_list()))
    for time, place, behavior, offset in frame.select("time", "place", "behavior", "offset").rows():
        at = Circumstances.of(time - timedelta(minutes=offset), time, place)
        yield person, at
        person.append(at, behavior)


@settings(max_examples=60, deadline=None)
@given(events, st.booleans())
def test_a_person_is_counted_and_answered_as_in_a_log(events, places):
    model, frame = MODELS[places], table(events)
    past, vocabulary = Past.from_tables(frame, all_behaviors()), len(BEHAVIORS)
    rows = np.arange(frame.height)
    batch = {"habits": model.log_p(past, rows), "reference/past": model.whole.log_p(past, rows)}
    for row, (person, at) in enumerate(followed(model, frame)):
        assert list(person.own) == past.labels_outside(row)
        mine, other = person.counted(at), count(past, np.array([row]))
        assert mine.allowed.shape == other.allowed.shape and mine.allowed.all()
        for name in mine.contexts:
            np.testing.assert_array_equal(mine.contexts[name], other.contexts[name], name)
        for many in mine.recent:
            np.testing.assert_array_equal(mine.recent[many], other.recent[many])
        for name in ("outside", "since", "gap", "last", "hour", "weekday", "stays"):
            np.testing.assert_array_equal(getattr(mine, name), getattr(other, name), name)
        contexts = model.people.markov.contexts(past, np.array([row]))
        assert {name: codes.tolist() for name, codes in person.contexts(at).items()} == {
            name: codes.tolist() for name, codes in contexts.items()}
        found = log_p(model, person, at, list(batch))
        for name, expected in batch.items():
            assert len(found[name]) == vocabulary + len(person.own)
            np.testing.assert_allclose(found[name], expected[row], atol=1e-5)


@pytest.mark.parametrize(("most_events", "most_own"), [(16, 256), (4096, 3)])
def test_what_is_forgotten_is_as_if_it_had_never_been(monkeypatch, most_events, most_own):
    monkeypatch.setattr(module, "MOST_EVENTS", most_events)
    monkeypatch.setattr(module, "MOST_OWN", most_own)
    rng, model = np.random.default_rng(0), MODELS[True]
    names, forgot = [*BEHAVIORS[:3], "Swimming", "Fishing", "Chess", "Go"], 0
    events = [(str(rng.choice(names)), str(rng.choice([*PLACES, "Mars", f"p{n}"])), int(rng.integers(0, 900)), None)
              for n in range(100)]
    frame = table(events)
    for row, (person, at) in enumerate(followed(model, frame)):
        assert person.count <= most_events and len(person.own) <= most_own
        kept = frame[row - person.count : row + 1]
        forgot += person.count < row
        past = Past.from_tables(kept, all_behaviors())
        expected = dict(zip([*BEHAVIORS, *past.labels_outside(person.count)],
                            model.log_p(past, np.array([person.count]))[0], strict=True))
        found = log_p(model, person, at, ["habits"])["habits"]
        assert dict(zip([*BEHAVIORS, *person.own], found, strict=True)) == pytest.approx(expected, abs=1e-5)
    assert forgot > 50


def test_five_hundred_events_take_a_few_kilobytes():
    person = PersonalPast(Known(BEHAVIORS, PLACES))
    for number in range(500):
        person.append(Circumstances(number * 3600, number % 24, number // 24 % 7, "home"), BEHAVIORS[number % 6])
    assert 500 * 14 < person.bytes < 10_000


def test_spellings_of_a_place_are_one():
    person = PersonalPast(Known(BEHAVIORS, PLACES))
    for number, place in enumerate(["Home", "home", "HOME", "Mars", "MARS"]):
        person.append(Circumstances(number, 8, 0, place), BEHAVIORS[0])
    assert person.counted(Circumstances(9, 8, 0, "home")).contexts["place"][0, 0] == 3
    assert person.counted(Circumstances(9, 8, 0, "mars")).contexts["place"][0, 0] == 2


def test_spellings_of_an_own_behaviour_are_one_candidate():
    person = PersonalPast(Known(BEHAVIORS, PLACES))
    at = Circumstances(0, 8, 0, "home")
    assert person.append(at, "Yak shaving") == person.append(at, "YAK shaving") == len(BEHAVIORS)
    assert list(person.own) == ["Yak shaving"] and person.candidates() == len(BEHAVIORS) + 1
