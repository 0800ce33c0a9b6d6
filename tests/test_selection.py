import sys

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import kmeans_plusplus

from stages import selection as stage
from stages.common import tables
from stages.common.errors import UserError
from stages.common.files import DIGITS, write_json
from stages.pairs.rules import RULES, _distinct, difficulty
from stages.selection import selection
from tests.events.helpers import write_params
from tests.small_log import small_params

NAMES = ["a", "b", "c", "d"]
KNOWN = pl.DataFrame({
    "behavior": NAMES, "train_events": [70, 20, 7, 3], "share": [0.7, 0.2, 0.07, 0.03],
    "group": ["head", "head", "head", "medium"], "is_anchor": [True, True, False, False],
}, schema=tables.SCHEMAS["vocabulary"])


def scores(per_behavior=(12, 7, 3, 1), seed=0, copies=1):
    """A table `scores`; each embedding stands there `copies` times."""
    rng = np.random.default_rng(seed)
    behavior = np.repeat(np.arange(len(per_behavior)), per_behavior)
    size = len(behavior)
    p = np.sort(rng.dirichlet(np.ones(4), size=size), axis=1)[:, ::-1]
    order = np.stack([rng.permutation(4) for _ in range(size)])
    points = rng.normal(size=(size, 6))[np.arange(size) // copies * copies]
    columns = {
        "row": rng.permutation(1000)[:size], "behavior": [NAMES[i] for i in behavior],
        "predicted": [NAMES[i] for i in order[:, 0]], "runner_up": [NAMES[i] for i in order[:, 1]],
        "p_true": p[np.arange(size), np.argmax(order == behavior[:, None], axis=1)], "p_predicted": p[:, 0],
        "p_runner_up": p[:, 1],
        "within_category": np.where((order[:, 0] != behavior) & (rng.random(size) < 0.6), 1, 0).astype(np.int8),
        "embedding": points / np.linalg.norm(points, axis=1, keepdims=True),
    }
    return pl.DataFrame(columns).cast(tables.SCHEMAS["scores"])


def params(**changes):
    return small_params(**{f"selection__{key}": value for key, value in changes.items()}).selection


def with_difficulty(frame, section):
    return frame.with_columns(difficulty=pl.Series(difficulty(frame, section)))


some_scores = st.builds(
    scores, st.lists(st.integers(1, 12), min_size=1, max_size=4), st.integers(0, 1000), st.sampled_from([1, 2, 5])
)
quick = settings(max_examples=40, database=None)


@quick
@given(some_scores, st.sampled_from(sorted(RULES)), st.integers(1, 8), st.integers(0, 5))
def test_every_rule_keeps_distinct_windows_at_most_so_many_and_tells_truth_from_mistake(frame, method, size, seed):
    section = params(method=method, per_behavior=size)
    available = frame.filter(within_category=1) if method == "hard" else frame
    if available.is_empty():
        with pytest.raises(UserError, match="selection.method: hard: keeps no window"):
            selection(frame, KNOWN, section, seed)
        return
    pairs, counts = selection(frame, KNOWN, section, seed)
    tables.check(pairs, "pairs", "x")
    assert pairs["row"].is_sorted() and pairs["row"].n_unique() == len(pairs) == counts["pairs"]
    kept = dict(pairs.group_by("chosen").len().iter_rows())
    assert kept == {name: min(size, n) for name, n in available.group_by("behavior").len().iter_rows()}
    assert (counts["fewest"], counts["most"]) == (min(kept.values()), max(kept.values()))
    assert counts["behaviors"] == len(kept)
    joined = pairs.join(frame, on="row")
    assert (joined["chosen"] == joined["behavior"]).all()
    assert (joined["chosen"] != joined["rejected"]).all(), "such a pair has no gradient"
    for row in joined.iter_rows(named=True):
        wrong = row["predicted"] != row["behavior"]
        assert row["rejected"] == (row["predicted"] if wrong else row["runner_up"])
    if method == "hard":
        assert (joined["within_category"] == 1).all()


@quick
@given(some_scores, st.sampled_from(sorted(set(RULES) - {"hard"})), st.integers(1, 4), st.floats(1, 6))
def test_tail_behaviours_keep_so_many_times_as_much_and_anchors_what_they_kept(frame, method, size, factor):
    plain, _ = selection(frame, KNOWN, params(method=method, per_behavior=size), 0)
    pairs, counts = selection(frame, KNOWN, params(method=method, per_behavior=size, tail_factor=factor), 0)
    available = dict(frame.group_by("behavior").len().iter_rows())
    wanted = {"a": size, "b": size, "c": round(size * factor), "d": round(size * factor)}
    assert dict(pairs.group_by("chosen").len().iter_rows()) == {n: min(wanted[n], available[n]) for n in available}
    anchors = pl.col("chosen").is_in(["a", "b"])
    assert pairs.filter(anchors).equals(plain.filter(anchors)), "an anchor's windows do not move"
    assert counts["pairs"] == len(pairs)


@pytest.mark.parametrize(("factor", "kept"), [(1, 5), (1.09, 5), (1.1, 6), (1.3, 6), (1.4, 7), (2, 10), (100, 12)])
def test_a_tails_windows_are_rounded_and_no_more_than_there_are(factor, kept):
    frame = scores((12, 12, 12, 12))
    pairs, _ = selection(frame, KNOWN, params(per_behavior=5, tail_factor=factor), 0)
    assert dict(pairs.group_by("chosen").len().iter_rows()) == {"a": 5, "b": 5, "c": kept, "d": kept}


def test_a_scored_behaviour_that_the_vocabulary_lacks_is_refused_by_name():
    with pytest.raises(UserError, match="scores: 'b', 'd': not in the vocabulary; both must come from the same log"):
        selection(scores(), KNOWN[[0, 2]], params(), 0)


@quick
@given(some_scores, st.sampled_from(sorted(RULES)), st.randoms(use_true_random=False))
def test_shuffled_rows_select_the_same_pairs(frame, method, random):
    section = params(method=method, per_behavior=3)
    if method == "hard" and frame.filter(within_category=1).is_empty():
        return
    order = list(range(len(frame)))
    random.shuffle(order)
    (pairs, counts), (again, same) = selection(frame, KNOWN, section, 0), selection(frame[order], KNOWN, section, 0)
    assert again.equals(pairs) and same == counts


@pytest.mark.parametrize(("term", "weight", "expected"), [
    ("intended", 0.5, [0.5 * 0.9 + 0.5 * 1, 0.5 * 0.9 + 0.5 * 0]),
    ("literal", 0.5, [0.5 * 0.9 + 0.5 * 0, 0.5 * 0.9 + 0.5 * 1]),
    ("intended", 0.25, [0.25 * 0.9 + 0.75, 0.25 * 0.9]),
    ("literal", 0.25, [0.25 * 0.9, 0.25 * 0.9 + 0.75]),
    ("intended", 1.0, [0.9, 0.9]), ("literal", 1.0, [0.9, 0.9]),
    ("intended", 0.0, [1, 0]), ("literal", 0.0, [0, 1]),
])
def test_difficulty_by_hand(term, weight, expected):
    frame = pl.DataFrame({"p_true": [0.1, 0.1], "within_category": [1, 0]})
    section = params(**{"lambda": weight}, confusion_term=term)
    assert difficulty(frame, section).tolist() == pytest.approx(expected)


@quick
@given(some_scores, st.floats(0, 1), st.sampled_from(["intended", "literal"]))
def test_difficulty_lies_between_0_and_1_and_grows_as_the_truth_gets_less_likely(frame, weight, term):
    section = params(**{"lambda": weight}, confusion_term=term)
    found = difficulty(frame, section)
    assert found.dtype == np.float32 and (found >= 0).all() and (found <= 1 + 1e-6).all()
    likelier = frame.with_columns(p_true=(pl.col("p_true") / 2 + 0.5).cast(pl.Float32))
    assert (difficulty(likelier, section) <= found + 1e-6).all()


def test_the_most_difficult_windows_are_kept_ties_by_row():
    frame = scores((12,)).sort("row").with_columns(
        within_category=pl.lit(1, dtype=pl.Int8),
        p_true=pl.Series([0.5, 0.1, 0.5, 0.9, 0.1, 0.5] * 2, dtype=pl.Float32),
    )
    for method in ("difficulty", "uncertainty"):
        pairs, _ = selection(frame, KNOWN, params(method=method, per_behavior=6), 0)
        assert pairs["row"].to_list() == frame[[0, 1, 2, 4, 7, 10]]["row"].to_list()


def test_uncertainty_does_not_look_at_the_category_and_difficulty_does():
    frame = scores((12,)).with_columns(
        within_category=pl.Series([1] * 2 + [0] * 10, dtype=pl.Int8),
        p_true=pl.Series([0.9] * 2 + [0.1] * 2 + [0.2] * 8, dtype=pl.Float32),
    )
    for method, kept in (("difficulty", [0, 1]), ("uncertainty", [2, 3])):
        pairs, _ = selection(frame, KNOWN, params(method=method, per_behavior=2), 0)
        assert set(pairs["row"]) == set(frame[kept]["row"])


def test_margin_keeps_the_narrowest_decisions():
    frame = scores((5,)).with_columns(
        p_predicted=pl.Series([0.9, 0.5, 0.4, 0.6, 0.8], dtype=pl.Float32),
        p_runner_up=pl.Series([0.05, 0.45, 0.3, 0.1, 0.1], dtype=pl.Float32),
    )
    pairs, _ = selection(frame, KNOWN, params(method="margin", per_behavior=2), 0)
    assert set(pairs["row"]) == set(frame[[1, 2]]["row"])


@pytest.mark.parametrize("method", ["uniform", "hard", "kmeans"])
def test_another_seed_draws_others(method):
    frame = scores((12,)).with_columns(within_category=pl.lit(1, dtype=pl.Int8))
    section = params(method=method, per_behavior=4)
    drawn = {tuple(selection(frame, KNOWN, section, seed)[0]["row"]) for seed in range(6)}
    assert len(drawn) > 1


def test_uniform_draws_every_window_alike():
    frame = scores((8,))
    section = params(method="uniform", per_behavior=2)
    drawn = pl.concat([selection(frame, KNOWN, section, seed)[0]["row"] for seed in range(200)]).value_counts()
    assert len(drawn) == 8 and drawn["count"].min() > 25, "50 each on average"


def test_kmeans_is_the_seeding_of_scikit_learn_with_difficulties_as_weights():
    frame = with_difficulty(scores((60,)).sort("row"), params())
    weight = frame["difficulty"].to_numpy().astype(np.float64)
    points = np.stack(frame["embedding"].to_numpy()).astype(np.float64)
    for seed in range(5):
        state = int(np.random.default_rng(seed).integers(2**31))
        _, expected = kmeans_plusplus(
            points, 8, sample_weight=weight / weight.max(), n_local_trials=1, random_state=state
        )
        found = RULES["kmeans"](frame, 8, np.random.default_rng(seed))
        assert sorted(found) == sorted(expected)


def test_kmeans_favours_hard_windows_and_far_ones():
    frame = scores((40,)).sort("row")
    near = np.tile([1.0, 0, 0, 0, 0, 0], (40, 1)) + np.random.default_rng(0).normal(scale=1e-3, size=(40, 6))
    near[30:] = -near[30:]
    frame = frame.with_columns(embedding=pl.Series(near.tolist(), dtype=tables.FLOATS))
    hard = with_difficulty(frame, params()).with_columns(
        difficulty=pl.Series([1.0] * 5 + [0.001] * 25 + [1.0] * 10, dtype=pl.Float32)
    )
    drawn = [RULES["kmeans"](hard, 2, np.random.default_rng(seed)) for seed in range(20)]
    assert all((found < 30).sum() == 1 for found in drawn), "one of each heap"
    first = np.array([found.min() for found in drawn])
    assert (first < 5).mean() > 0.8, "the easy heap is drawn from by its hard windows"


def test_windows_drawn_twice_make_room_for_the_hardest_of_the_others():
    weight = np.array([0.1, 0.5, 0.9, 0.2, 0.9, 0.3])
    assert sorted(_distinct(np.array([0, 3, 0, 0]), weight, 4)) == [0, 2, 3, 4]
    assert sorted(_distinct(np.array([0, 0, 0]), weight, 3)) == [0, 2, 4]
    assert sorted(_distinct(np.array([5, 1]), weight, 2)) == [1, 5]
    assert sorted(_distinct(np.array([0] * 6), weight, 9)) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("size", [3, 10, 50])
def test_windows_of_one_embedding_are_enough(size):
    frame = with_difficulty(scores((10,), copies=10), params())
    found = RULES["kmeans"](frame, size, np.random.default_rng(0))
    assert len(set(found.tolist())) == len(found) == min(size, 10)


def test_windows_of_no_difficulty_can_be_drawn_too():
    frame = scores((6,)).with_columns(p_true=pl.lit(1.0, dtype=pl.Float32), within_category=pl.lit(0, dtype=pl.Int8))
    pairs, counts = selection(frame, KNOWN, params(per_behavior=4), 0)
    assert len(pairs) == 4 and counts["mean_difficulty"] == 0


def test_command(tmp_path, monkeypatch):
    frame, values = scores(), small_params(selection__per_behavior=2, selection__tail_factor=3)
    tables.write(frame, "scores", tmp_path / "scores.parquet")
    tables.write(KNOWN, "vocabulary", tmp_path / "vocabulary.parquet")
    monkeypatch.setattr(sys, "argv", [
        "selection", "--params", str(write_params(tmp_path / "params.yaml", values)),
        "--scores", str(tmp_path / "scores.parquet"), "--vocabulary", str(tmp_path / "vocabulary.parquet"),
        "--out", str(tmp_path / "pairs.parquet"), "--counts", str(tmp_path / "selection.json"),
    ])
    stage.STAGE.main()
    pairs, counts = selection(frame, KNOWN, values.selection, values.seed)
    assert tables.read("pairs", tmp_path / "pairs.parquet").equals(pairs)
    write_json(tmp_path / "expected.json", counts, DIGITS)
    assert (tmp_path / "selection.json").read_bytes() == (tmp_path / "expected.json").read_bytes()
    assert counts["pairs"] == 2 + 2 + 3 + 1
