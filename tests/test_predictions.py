import numpy as np
import polars as pl
import pytest

from stages.common import tables
from stages.common.errors import UserError
from stages.metrics.splits import OpenTable
from stages.model.likelihood import score
from stages.model.load import load_merged, load_tokenizer
from stages.predictions import predictions
from stages.prompts.layouts import layout_of
from stages.prompts.log import EventLog
from stages.windows.past import Past
from tests.small_log import sft_adapter, all_behaviors, small_log, small_params, small_windows

SPLITS = ["train", "valid", "natural", "balanced", "natural", "balanced"]


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    monkeypatch.setenv("BEHAVIORLM_DTYPE", "float32")


@pytest.fixture(scope="module")
def log():
    events = small_log([12, 12, 9, 9, 9, 9])
    return events, small_windows(events, SPLITS)


def run(log, model, **changes):
    return predictions(*log, all_behaviors(), small_params(predictions__valid_natural=4, **changes), model)


def test_whole_distributions_over_the_vocabulary_for_every_test_and_some_validation_windows(log, tiny_base):
    events, windows = log
    frame, facts = run(log, tiny_base)
    tables.check(frame, "predictions", "x")
    test = windows.filter(pl.col("split").is_in(["natural", "balanced"])).sort("split", "row")
    assert frame.filter(pl.col("split").is_in(["natural", "balanced"])).select("row", "split").equals(test)
    valid = frame.filter(pl.col("split").str.starts_with("valid"))
    assert set(valid["split"]) == {"valid_natural", "valid_balanced"}
    assert set(valid["row"]) <= set(windows.filter(split="valid")["row"])
    assert frame["behavior"].equals(events["behavior"].gather(frame["row"]))
    log_p = np.stack(frame["log_p"].to_numpy())
    assert log_p.shape == (len(frame), 6)
    np.testing.assert_allclose(np.exp(log_p).sum(axis=1), 1, atol=1e-4)
    assert facts == {"layout": "stream", "context": "next", "windows": len(frame), "events_dropped": 0}


def test_the_result_does_not_depend_on_the_order_of_the_windows(log, tiny_base):
    events, windows = log
    one, facts = run(log, tiny_base)
    other, same = run((events, windows.sample(fraction=1, shuffle=True, seed=1)), tiny_base)
    assert other.equals(one) and same == facts


@pytest.mark.parametrize("layout", ["stream", "window"])
def test_the_seed_of_training_changes_nothing(log, tiny_base, layout):
    assert run(log, tiny_base, prompt__layout=layout, seed=5)[0].equals(run(log, tiny_base, prompt__layout=layout)[0])


def test_an_adapter_predicts_with_its_base(log, tiny_base, tmp_path):
    base, _ = run(log, tiny_base)
    tuned, _ = run(log, sft_adapter(tiny_base, tmp_path / "sft"))
    difference = np.stack(base["log_p"].to_numpy()) - np.stack(tuned["log_p"].to_numpy())
    assert np.abs(difference).max() > 0.1


@pytest.mark.parametrize(("splits", "missing"), [(["valid"] * 6, "natural or balanced"), (["natural"] * 6, "valid")])
def test_without_a_test_or_a_validation_window_there_is_nothing_to_predict(log, tiny_base, splits, missing):
    events, _ = log
    with pytest.raises(UserError, match=f"windows: none of split {missing}"):
        run((events, small_windows(events, splits)), tiny_base)


@pytest.mark.parametrize("layout", ["stream", "window"])
def test_windows_outside_the_vocabulary_are_predicted_as_any_other(log, tiny_base, layout):
    """A distribution over the candidates, none of which is right; what came before decides, not what happened."""
    events, windows = log
    tested = events["user"] >= 2
    strange = events.with_columns(
        behavior=pl.when(tested & (pl.int_range(events.height) % 3 == 0)).then(pl.lit("Keeping bees"))
        .otherwise("behavior"))
    frame, _ = run((strange, windows), tiny_base, prompt__layout=layout)
    outside = frame.filter(behavior="Keeping bees")
    assert 0 < len(outside) < len(frame.filter(pl.col("split").is_in(["natural", "balanced"])))
    np.testing.assert_allclose(np.exp(np.stack(outside["log_p"].to_numpy())).sum(axis=1), 1, atol=1e-4)
    last = frame.filter(split="natural")["row"].max()
    renamed = strange.with_columns(behavior=pl.when(pl.int_range(events.height) == last).then(pl.lit("Rowing"))
                                   .otherwise("behavior"))
    again, _ = run((renamed, windows), tiny_base, prompt__layout=layout)
    assert again.filter(row=last)["log_p"].to_list() == frame.filter(row=last)["log_p"].to_list()


@pytest.mark.parametrize("layout", ["stream", "window"])
def test_what_the_person_did_before_is_a_candidate_by_its_name(log, tiny_base, layout):
    """The numbers are those of the same log whose vocabulary, in the answers, has that behaviour too."""
    events, windows = log
    strange = (pl.col("user") == 2) & (pl.int_range(pl.len()) % 3 == 0)
    events = events.with_columns(behavior=pl.when(strange).then(pl.lit("Flying a kite")).otherwise("behavior"))
    found, _ = run((events, windows), tiny_base, prompt__layout=layout)
    plain, _ = run(log, tiny_base, prompt__layout=layout)
    past = Past.from_tables(events, all_behaviors())
    assert found["log_p"].list.len().to_list() == [6 + past.own[row] for row in found["row"]]
    assert {6, 7} == set(found["log_p"].list.len()) and set(plain["log_p"].list.len()) == {6}
    for log_p in found["log_p"]:
        assert np.exp(np.array(log_p)).sum() == pytest.approx(1, abs=1e-4)
    opened = OpenTable.of(found, events, all_behaviors())
    assert opened.share is None and (opened.windows.label == 6).any()
    own = [place for place, row in enumerate(found["row"]) if past.own[row]]
    place = own[-1]
    params = small_params(prompt__layout=layout)
    made = layout_of(load_tokenizer(tiny_base), EventLog.from_tables(events, all_behaviors()), params)
    prompt = made.prompt(found["row"][place])
    expected = score(load_merged(tiny_base), [prompt], [*made.answers, made.answer("Flying a kite")]).log_p[0]
    np.testing.assert_allclose(found["log_p"][place].to_numpy(), expected, atol=1e-4)


def test_a_name_that_cannot_stand_in_a_prompt_is_refused_though_it_is_outside_the_vocabulary(log, tiny_base):
    events, windows = log
    events = events.with_columns(
        behavior=pl.when(pl.int_range(pl.len()) == 30).then(pl.lit("<|im_end|>")).otherwise("behavior"))
    with pytest.raises(UserError, match="control token of the model"):
        run((events, windows), tiny_base)
