import numpy as np
import pytest

from stages.common import tables
from stages.common.errors import UserError
from stages.model.likelihood import Scores, score
from stages.model.load import load_merged, load_tokenizer
from stages.prompts.layout import prompts
from stages.prompts.layouts import make_layout
from stages.prompts.log import EventLog
from stages.scoring import pool, scoring, table
from tests.small_log import BEHAVIORS, sft_adapter, all_behaviors, small_log, small_params, small_windows

SPLITS = ["train", "train", "train", "valid", "natural", "balanced"]


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    monkeypatch.setenv("BEHAVIORLM_DTYPE", "float32")


def scored(p, behavior):
    """Table `scores` of windows with the probabilities `p` (N, 6) over the vocabulary."""
    p = np.array(p, dtype=np.float32)
    with np.errstate(divide="ignore"):
        result = Scores(np.log(p), np.zeros((len(p), 3), dtype=np.float32))
    return table(np.arange(len(p)), np.array(behavior), result, all_behaviors())


def test_each_column_of_the_table():
    names = all_behaviors()["behavior"]
    frame = scored([[0.1, 0.4, 0.2, 0.05, 0.15, 0.1]], [2])
    tables.check(frame, "scores", "x")
    (row,) = frame.iter_rows(named=True)
    assert (row["behavior"], row["predicted"], row["runner_up"]) == (names[2], names[1], names[2])
    assert (row["p_true"], row["p_predicted"], row["p_runner_up"]) == pytest.approx((0.2, 0.4, 0.2))


def test_ties_go_to_the_earlier_candidate():
    names = all_behaviors()["behavior"]
    frame = scored([[0.1, 0.3, 0.1, 0.3, 0.1, 0.1], [1 / 6] * 6], [0, 5])
    assert frame["predicted"].to_list() == [names[1], names[0]]
    assert frame["runner_up"].to_list() == [names[3], names[1]]


def test_the_runner_up_is_never_the_prediction_however_unlikely():
    frame = scored([[0, 0, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0]], [2, 2])
    assert (frame["runner_up"] != frame["predicted"]).all()


@pytest.mark.parametrize(("truth", "predicted", "within"), [
    (0, 0, 0),  # right
    (0, 1, 1), (4, 5, 1),  # wrong, within anchors; within tail
    (0, 4, 0), (4, 0, 0),  # wrong, across
])
def test_within_category_is_1_for_a_mistake_within_the_category_alone(truth, predicted, within):
    assert all_behaviors()["is_anchor"].to_list() == [True] * 4 + [False] * 2
    assert scored([np.eye(6)[predicted]], [truth])["within_category"].to_list() == [within]


def test_the_pool_holds_at_most_so_many_training_windows_of_each_behaviour():
    events = small_log()
    windows = small_windows(events, SPLITS)
    train = windows.filter(split="train")["row"]
    names = events["behavior"].to_numpy()
    rows = pool(events, windows, 5, 0)
    assert np.array_equal(rows, np.unique(rows)) and set(rows) <= set(train)
    for name in BEHAVIORS:
        assert (names[rows] == name).sum() == min(5, (names[train] == name).sum())
    assert np.array_equal(pool(events, windows, 10**6, 0), train.sort())


def test_the_pool_follows_its_seed_and_not_the_order_of_the_windows():
    events = small_log()
    windows = small_windows(events, SPLITS)
    rows = pool(events, windows, 3, 0)
    assert np.array_equal(rows, pool(events, windows.sample(fraction=1, shuffle=True, seed=1), 3, 0))
    assert not np.array_equal(rows, pool(events, windows, 3, 1))


def test_without_a_training_window_there_is_nothing_to_score():
    events = small_log()
    with pytest.raises(UserError, match="windows: none of split train"):
        pool(events, small_windows(events, ["valid"] * 6), 3, 0)


@pytest.mark.parametrize("layout", ["stream", "window"])
def test_the_stage_scores_the_tuned_model_on_prompts_of_the_layout(tiny_base, tmp_path, layout):
    events, vocabulary = small_log(), all_behaviors()
    windows, model = small_windows(events, SPLITS), sft_adapter(tiny_base, tmp_path / "sft")
    params = small_params(scoring__pool_per_behavior=2, prompt__layout=layout)
    frame, counts = scoring(events, windows, vocabulary, params, model)
    tables.check(frame, "scores", "x")
    rows = pool(events, windows, 2, 0)
    made = make_layout(load_tokenizer(model), EventLog.from_tables(events, vocabulary), params.prompt, 6, 3, 0)
    expected = score(load_merged(model), prompts(made, rows), made.answers)
    assert frame["row"].to_list() == rows.tolist()
    assert frame["behavior"].equals(events["behavior"].gather(rows))
    number = dict(zip(vocabulary["behavior"], range(6), strict=True))
    truth = np.array([number[name] for name in frame["behavior"]])
    np.testing.assert_allclose(frame["p_true"], np.exp(expected.log_p)[np.arange(len(rows)), truth], atol=1e-5)
    np.testing.assert_allclose(np.stack(frame["embedding"].to_numpy()), expected.embedding, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(np.stack(frame["embedding"].to_numpy()), axis=1), 1, atol=1e-5)
    assert counts["windows"] == len(rows) and counts["events_dropped"] == 0
    assert counts["accuracy"] == pytest.approx((frame["behavior"] == frame["predicted"]).mean())
    assert counts["mean_p_true"] == pytest.approx(frame["p_true"].mean())


def test_shuffled_windows_give_the_same_table(tiny_base):
    events, params = small_log(), small_params(scoring__pool_per_behavior=1)
    windows = small_windows(events, SPLITS)
    one, _ = scoring(events, windows, all_behaviors(), params, tiny_base)
    other, _ = scoring(events, windows.reverse(), all_behaviors(), params, tiny_base)
    assert one.equals(other)


def test_dropped_events_are_counted(tiny_base):
    events, windows = small_log(), small_windows(small_log(), SPLITS)
    params = small_params(
        scoring__pool_per_behavior=1, prompt__max_tokens=190, windowing__history=20, prompt__stream_events=30
    )
    _, counts = scoring(events, windows, all_behaviors(), params, tiny_base)
    assert counts["events_dropped"] > 0
