import numpy as np
import polars as pl

from stages.benchmarks import prediction
from stages.benchmarks.prediction import Context, Event
from stages.common import tables
from stages.model.likelihood import score
from stages.model.load import load_merged
from stages.prompts.layouts import make_layout
from stages.prompts.log import EventLog


class Plain:
    """Renders a log of one person anew for each prediction and scores every candidate behind the whole prompt."""

    def __init__(self, model, material, history):
        self.model, self.material, self.events = model, material, list(history)

    def append(self, event: Event) -> None:
        self.events.append(event)

    def prompt(self, context: Context) -> list[int]:
        material, events = self.material, [*self.events, Event(context, self.material.vocabulary["behavior"][0])]
        columns = {"user": [0] * len(events), "time": [e.context.time for e in events],
                   "place": [e.context.place for e in events], "behavior": [e.behavior for e in events]}
        log = EventLog.from_tables(pl.DataFrame(columns, schema=tables.SCHEMAS["events"]), material.vocabulary)
        params = material.params
        layout = make_layout(material.tokenizer, log, params.prompt, params.windowing.history,
                             params.windowing.min_history, params.seed)
        return layout.prompt(len(events) - 1)

    def predict(self, context: Context, everything: bool) -> str:
        log_p = score(self.model, [self.prompt(context)], self.material.stream.answers).log_p[0]
        return self.material.stream.candidates[int(log_p.argmax())]


def test_people_are_followed_through_consecutive_events(material):
    rows = prediction.followed(material, 8)
    assert len(rows) == 8 and (np.diff(rows) == 1).all() and len(set(material.log.first[rows])) == 1
    assert rows[0] - material.log.first[rows[0]] > material.stream.length


def test_a_plain_session_sees_the_windows_of_the_log(material):
    rows = prediction.followed(material, 5)
    walk = prediction.follow(load_merged(material.model), material, rows, Plain, everything=True)
    assert walk.prompts == [material.stream.prompt(int(row)) for row in rows]
    assert len(walk.seconds) == len(walk.answers) == 5 and min(walk.seconds) > 0


def test_comparison_with_a_plain_session(material, sizes):
    found = prediction.compare(material, sizes, make=Plain)
    assert found.details["as_from_whole_prompts"] == found.details["as_from_whole_prompts_all"] == 1
    assert [row.target for row in found.rows] == [15, None, 15, None]
    assert all(len(row.ours) == len(row.theirs) == sizes.rounds for row in found.rows)
    assert found.rows[0].ours[0] <= found.rows[2].ours[0]
    assert 0 <= found.details["generated_the_same"] <= 1


def test_our_session_predicts_what_whole_prompts_do(material, sizes):
    found = prediction.compare(material, sizes, ours_only=True)
    assert found.details["as_from_whole_prompts"] == found.details["as_from_whole_prompts_all"] == 1
    assert found.details["predictions"] == sizes.predictions and found.rows[0].theirs == []


def test_generating_answers_for_the_same_prompts(material):
    rows = prediction.followed(material, 2)
    walk = prediction.generated(load_merged(material.model), material, rows)
    assert walk.prompts == [material.stream.prompt(int(row)) for row in rows]
