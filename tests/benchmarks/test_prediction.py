import numpy as np
import polars as pl

from stages.benchmarks import prediction
from stages.model.likelihood import score
from stages.model.load import load_merged
from stages.prompts.layouts import make_layout
from stages.prompts.log import EventLog


class Plain:
    """Renders a log of one person anew for each prediction and scores every candidate behind the whole prompt."""

    def __init__(self, model, inputs, history):
        self.model, self.inputs, self.rows = model, inputs, list(history)

    def append(self, row):
        self.rows.append(row)

    def prompt(self, row):
        inputs, count = self.inputs, len(self.rows)
        # what the person does next is nobody's to see
        events = inputs.events[[*self.rows, row]].with_columns(
            user=pl.lit(0).cast(pl.UInt64),
            behavior=pl.when(pl.int_range(pl.len()) == count).then(pl.lit(inputs.vocabulary["behavior"][0]))
            .otherwise("behavior"),
        )
        log, params = EventLog.from_tables(events, inputs.vocabulary), inputs.params
        layout = make_layout(inputs.tokenizer, log, params.prompt, params.windowing.history,
                             params.windowing.min_history, params.seed)
        return layout.prompt(count)

    def predict(self, row, exactly):
        log_p = score(self.model, [self.prompt(row)], self.inputs.stream.answers).log_p[0]
        return self.inputs.stream.candidates[int(log_p.argmax())]


def test_people_are_followed_through_consecutive_events(inputs):
    rows = prediction.followed(inputs, 8)
    assert len(rows) == 8 and (np.diff(rows) == 1).all() and len(set(inputs.log.first[rows])) == 1
    assert rows[0] - inputs.log.first[rows[0]] > inputs.stream.length


def test_a_plain_session_sees_the_windows_of_the_log(inputs):
    rows = prediction.followed(inputs, 5)
    walk = prediction.follow(load_merged(inputs.model), inputs, rows, Plain, exactly=True)
    assert walk.prompts == [inputs.stream.prompt(int(row)) for row in rows]
    assert len(walk.seconds) == len(walk.answers) == 5 and min(walk.seconds) > 0


def test_comparison_with_a_plain_session(inputs, sizes):
    found = prediction.compare(inputs, make=Plain)
    assert found.details["as_from_whole_prompts"] == found.details["as_from_whole_prompts_all"] == 1
    assert [row.target for row in found.rows] == [15, None, 15, None]
    assert all(len(row.ours) == len(row.baseline) == sizes.rounds for row in found.rows)
    assert found.rows[0].ours[0] <= found.rows[2].ours[0]
    assert 0 <= found.details["generated_the_same"] <= 1


def test_our_session_predicts_what_whole_prompts_do(inputs, sizes):
    found = prediction.compare(inputs, ours_only=True)
    assert found.details["as_from_whole_prompts"] == found.details["as_from_whole_prompts_all"] == 1
    assert found.details["predictions"] == sizes.predictions and found.rows[0].baseline == []


def test_generating_answers_for_the_same_prompts(inputs):
    rows = prediction.followed(inputs, 2)
    walk = prediction.follow(load_merged(inputs.model), inputs, rows, prediction.Generation)
    assert walk.prompts == [inputs.stream.prompt(int(row)) for row in rows]
