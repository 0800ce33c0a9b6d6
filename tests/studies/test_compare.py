import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.common.errors import UserError
from stages.metrics.bootstrap import effective_users, interval, resampled
from stages.metrics.candidates import OUTSIDE
from stages.metrics.outcomes import outcomes
from stages.metrics.registry import METRICS, find, groups, of_split
from stages.metrics.sums import contributions, swapped
from stages.studies.compare import Comparison, Summary, summarise
from stages.studies.permutation import holm, paired_test, random_signs
from stages.studies.repetitions import Repetition, RowResult, prepare
from tests.metrics.weighted import sums, weighted
from stages.studies.planted import Plan, coverage, rows, vocabulary


def arrays(repetition, split, names):
    part = repetition.predictions.with_columns(user=pl.Series(repetition.users)).filter(pl.col("split") == split)
    label = part["behavior"].replace_strict(names["behavior"], np.arange(names.height), default=OUTSIDE)
    return outcomes(np.array(part["log_p"].to_list(), dtype=np.float32), label.to_numpy()), part["user"].to_numpy()


def plain(repetition, names, bins=10):
    windows = {split: arrays(repetition, split, names)[0] for split in ("natural", "balanced")}
    return {name: weighted(name, windows[metric.split], members=groups(names), bins=bins)
            for name, metric in METRICS.items()}


def with_unknown(planted):
    """The same study with a behaviour outside the vocabulary in some windows."""
    return [
        replace(row, repetitions=[
            replace(one, predictions=one.predictions.with_columns(
                behavior=pl.when(pl.col("row") % 7 == 0).then(pl.lit("unheard of")).otherwise("behavior")
            )) for one in row.repetitions
        ]) for row in planted
    ]


def test_values_are_those_of_the_plain_metrics(study, summary_of, metrics):
    planted, names = study()
    planted = with_unknown(planted)
    summary = summary_of(planted, names)
    for row, result in zip(summary.rows, planted, strict=False):
        expected = [plain(repetition, names) for repetition in result.repetitions]
        for metric in metrics:
            measured = row.metrics[metric]
            assert measured.by_repetition == pytest.approx([values[metric] for values in expected])
            assert measured.mean.value == pytest.approx(np.mean([values[metric] for values in expected]))


def test_differences_are_of_the_means(study, summary_of, metrics):
    old, new = summary_of(*study()).rows
    for metric in metrics:
        base, other = old.metrics[metric].mean.value, new.metrics[metric]
        assert old.metrics[metric].difference is None
        assert other.difference.value == pytest.approx(other.mean.value - base)
        assert other.difference.relative == pytest.approx((other.mean.value - base) / base)
        assert other.difference.low <= other.difference.high


@given(seed=st.integers(0, 10_000), folds=st.booleans())
@settings(max_examples=10)
def test_a_row_does_not_differ_from_itself(seed, folds):
    planted = rows(Plan(users=8, windows=3, behaviors=4, repetitions=2, folds=folds), np.random.default_rng(seed))
    same = [planted[0], replace(planted[0], name="same")]
    metrics = ["natural.rec_w", "natural.prec_w", "natural.ece", "natural.log_loss", "balanced.overall"]
    summary = summarise(same, vocabulary(4), "old", Comparison(metrics, resamples=20), np.random.default_rng(seed))
    for measured in summary.rows[1].metrics.values():
        found = measured.difference
        assert (found.value, found.low, found.high, found.p, found.p_holm) == (0, 0, 0, 1, 1)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=10)
def test_order_of_rows_and_windows_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    planted = rows(Plan(users=6, windows=3, behaviors=4, repetitions=2), rng)
    metrics = ["natural.rec_w", "natural.prec_w", "balanced.overall"]

    def summary(given):
        return summarise(given, vocabulary(4), "old", Comparison(metrics, resamples=20), np.random.default_rng(1))

    def shuffled(one):
        order = rng.permutation(len(one.predictions))
        return replace(one, predictions=one.predictions[order], users=one.users[order])

    moved = [replace(row, repetitions=[shuffled(one) for one in row.repetitions[::-1]]) for row in planted[::-1]]
    first = {row.name: row for row in summary(planted).rows}
    for row in summary(moved).rows:
        assert row.repetitions == first[row.name].repetitions
        for metric in metrics:
            ours, theirs = row.metrics[metric], first[row.name].metrics[metric]
            assert ours.mean.__dict__ == pytest.approx(theirs.mean.__dict__)
            assert ours.by_repetition == pytest.approx(theirs.by_repetition)
            if row.name != "old":
                assert ours.difference.__dict__ == pytest.approx(theirs.difference.__dict__, abs=1e-12)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=10)
def test_swapping_two_rows_flips_the_sign(seed):
    planted = rows(Plan(users=20, windows=3, behaviors=4, repetitions=2), np.random.default_rng(seed))
    metrics = ["natural.log_loss", "natural.prec_w", "natural.ece", "balanced.overall"]
    there, back = (
        summarise(planted, vocabulary(4), reference, Comparison(metrics, resamples=30, flips=100),
                  np.random.default_rng(2))
        for reference in ("old", "new")
    )
    for metric in metrics:
        one, other = there.rows[1].metrics[metric].difference, back.rows[0].metrics[metric].difference
        assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low))
        assert one.p == other.p


def test_with_one_repetition_the_interval_is_that_of_the_users(study, summary_of):
    planted, names = study(repetitions=1, users=60)
    found = summary_of(planted, names, resamples=4000).rows[0].metrics
    natural, user = arrays(planted[0].repetitions[0], "natural", names)
    windows = sums(natural, groups(names))
    drawn = resampled(lambda weights: windows.measure(weights, of_split("natural")), user, 4000,
                      np.random.default_rng(5))
    for name in ("rec_w", "prec_w", "log_loss", "ece"):
        users = float(effective_users(windows.weight(METRICS[f"natural.{name}"])))
        value, expected = found[f"natural.{name}"].mean, interval(drawn[name], users)
        assert (value.low, value.high) == pytest.approx((expected["low"], expected["high"]), abs=0.012)


def test_drawing_repetitions_widens_the_interval():
    noisy = Plan(of_repetitions=0.05, users=30)
    crossed, users = (coverage(noisy, 5, 0, resample_repetitions=both).widths.mean() for both in (True, False))
    assert crossed > 1.2 * users


def test_repetitions_that_only_one_row_has_are_in_its_mean_alone(study, summary_of):
    planted, names = study()
    planted[1] = replace(planted[1], repetitions=planted[1].repetitions[1:])
    old, new = summary_of(planted, names, metrics=["natural.rec_w"]).rows
    base, other = old.metrics["natural.rec_w"], new.metrics["natural.rec_w"]
    assert (old.repetitions, new.repetitions) == ([0, 1, 2], [1, 2])
    assert len(other.by_repetition) == 2
    assert other.difference.value == pytest.approx(other.mean.value - np.mean(base.by_repetition[1:]))
    assert other.difference.relative == pytest.approx(other.difference.value / np.mean(base.by_repetition[1:]))


def test_rows_without_a_common_repetition_have_no_difference(study, summary_of):
    planted, names = study(folds=True)
    planted = [replace(planted[0], repetitions=planted[0].repetitions[:1]),
               replace(planted[1], repetitions=planted[1].repetitions[1:])]
    found = summary_of(planted, names).rows[1].metrics["balanced.overall"].difference
    assert (found.value, found.low, found.relative, found.p, found.p_holm) == (None,) * 5


def test_groups_of_ones_own_and_folds_with_their_own_vocabulary(study, summary_of):
    planted, names = study()
    mask = np.arange(6) == 2
    found = summary_of(planted, names, metrics=["balanced.mine"], groups={"mine": mask}).rows[0]
    shuffle = np.array([3, 1, 5, 0, 2, 4])
    turned = [
        replace(row, repetitions=[
            row.repetitions[0],
            *(replace(one, predictions=one.predictions.with_columns(pl.col("log_p").list.gather(shuffle.tolist())))
              for one in row.repetitions[1:]),
        ]) for row in planted
    ]
    folds = {0: names, 1: names[shuffle], 2: names[shuffle]}
    again = summary_of(turned, folds, metrics=["balanced.mine"], groups={"mine": mask}).rows[0]
    assert again.metrics["balanced.mine"].by_repetition == found.metrics["balanced.mine"].by_repetition
    with pytest.raises(UserError, match="repetition 2 has no vocabulary; there is one for \\[0, 1\\]"):
        summary_of(turned, {0: names, 1: names})


def test_json_comes_back_and_holds_no_user(study, summary_of):
    planted, names = study()
    secret = np.array([f"person-{user}" for user in planted[0].repetitions[0].users])
    facts = {"tau": np.float32(0.5), "scores": [float("nan"), np.float64(1.0)], 3: "x"}
    planted = [RowResult(row.name, "", [Repetition(one.number, one.predictions, secret, facts)
                                        for one in row.repetitions], {"natural.rec_w": 0.4}) for row in planted]
    summary = summary_of(planted, names)
    text = json.dumps(summary.to_json(), allow_nan=False)
    assert "person" not in text
    again = Summary.from_json(json.loads(text))
    assert again.to_json() == summary.to_json()
    assert again.rows[1].metrics == summary.rows[1].metrics
    assert again.rows[0].facts[0] == {"tau": 0.5, "scores": [None, 1.0], "3": "x"}
    assert (summary.users, summary.windows) == (14, {"natural": [70] * 3, "balanced": [70] * 3})


def test_nothing_to_measure_is_null(study, summary_of):
    planted, names = study()
    natural = [replace(row, repetitions=[
        replace(one, predictions=one.predictions.filter(pl.col("split") == "natural"), users=one.users[::2])
        for one in row.repetitions]) for row in planted]
    empty = [replace(row, repetitions=[
        replace(one, predictions=one.predictions.clear(), users=one.users[:0]) for one in row.repetitions
    ]) for row in planted]
    for some, metric in ((natural, "balanced.tail"), (empty, "natural.prec_w"), (empty, "natural.rec_w")):
        found = summary_of(some, names).rows[1].metrics[metric]
        assert found.by_repetition == [None] * 3
        assert set(found.mean.__dict__.values()) | set(found.difference.__dict__.values()) == {None}
    assert summary_of(natural, names).rows[0].metrics["natural.rec_w"].mean.value is not None


def test_no_resamples_leave_the_intervals_null(study, summary_of):
    found = summary_of(*study(), resamples=0).rows[1].metrics["balanced.overall"]
    assert found.mean.low is None and found.difference.high is None and found.difference.p is not None


# the paired test


def sums_of(planted, names):
    data = prepare(planted, names)
    return data, [(data.sums["new"][number], data.sums["old"][number]) for number in data.numbers]


@pytest.mark.parametrize(
    "metric", ["natural.rec_w", "natural.log_loss", "balanced.tail", "natural.prec_w", "natural.ece"]
)
def test_p_is_that_of_swapping_the_predictions(study, metric):
    metric = find(metric)
    data, pairs = sums_of(with_unknown(study(users=20)[0]), study()[1])
    signs = random_signs(300, data.users, np.random.default_rng(0))
    whole = np.mean([swapped(metric, *pair, (signs < 0).astype(float)) for pair in pairs], axis=0)
    observed = np.mean([swapped(metric, *pair, np.zeros((1, data.users)))[0] for pair in pairs])
    expected = (1 + (np.abs(whole) >= abs(observed) - 1e-10).sum()) / 301
    assert paired_test(metric, pairs, signs) == pytest.approx(expected)


@pytest.mark.parametrize("metric", ["natural.hr_at_3", "natural.log_loss", "balanced.tail", "balanced.overall"])
def test_contributions_add_up_to_the_difference(study, metric):
    metric = find(metric)
    planted, names = with_unknown(study()[0]), study()[1]
    # the last behaviour is in no test window
    planted = [replace(row, repetitions=[
        replace(one, predictions=one.predictions.with_columns(
            pl.col("behavior").replace("behaviour 5", "behaviour 0")
        )) for one in row.repetitions]) for row in planted]
    for first, second in sums_of(planted, names)[1]:
        added = contributions(metric, first, second)
        assert added.sum() == pytest.approx(swapped(metric, first, second, np.zeros((1, len(first.user))))[0])
        for user in (0, 3):
            swap = (np.arange(len(first.user)) == user).astype(float)[None]
            after = swapped(metric, first, second, swap)[0]
            assert after == pytest.approx(added.sum() - 2 * added[user])


@pytest.mark.parametrize("metric", ["natural.rec_w", "natural.prec_w", "natural.ece", "balanced.overall"])
def test_few_users_are_swapped_in_every_way(study, metric):
    data, pairs = sums_of(*study(users=5))
    few, many = (random_signs(flips, data.users, np.random.default_rng(0)) for flips in (1, 7))
    p = paired_test(find(metric), pairs, few)
    assert p == paired_test(find(metric), pairs, many)
    assert (p * 32) % 1 == 0 and p >= 2 / 32


def test_one_sided_users_reach_the_smallest_p(study):
    planted, names = study(users=6, effect=0.6, of_users=0, between_users=0, windows=40)
    _, pairs = sums_of(planted, names)
    assert paired_test(find("natural.rec_w"), pairs, random_signs(1, 6, np.random.default_rng(0))) == 2 / 64


def test_random_flips_are_never_zero(study):
    planted, names = study(users=60, effect=0.5, of_users=0)
    data, pairs = sums_of(planted, names)
    assert paired_test(find("natural.rec_w"), pairs, random_signs(99, data.users, np.random.default_rng(0))) == 1 / 100


def test_holm_by_hand():
    assert holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([None]) == [None] and holm([]) == []


def test_p_is_corrected_over_the_rows(study, summary_of):
    planted, names = study(users=30, effect=0.2)
    third = replace(planted[1], name="third")
    found = [row.metrics["natural.rec_w"].difference for row in
             summary_of([*planted, third], names, metrics=["natural.rec_w"]).rows[1:]]
    assert found[0].p == found[1].p and [one.p_holm for one in found] == [min(1, 2 * found[0].p)] * 2


# what is refused


def test_other_windows_at_the_same_repetition(study, summary_of):
    planted, names = study()
    one = planted[1].repetitions[2]
    for other in (
        replace(one, predictions=one.predictions[1:], users=one.users[1:]),
        replace(one, users=one.users[::-1]),
        replace(one, predictions=one.predictions.with_columns(behavior=pl.lit("behaviour 0"))),
    ):
        moved = [planted[0], replace(planted[1], repetitions=[*planted[1].repetitions[:2], other])]
        with pytest.raises(UserError, match="rows 'old' and 'new' hold other test windows at repetition 2"):
            summary_of(moved, names)


def test_validation_windows_are_not_read(study, summary_of):
    planted, names = study()
    one = planted[1].repetitions[0]
    valid = one.predictions[:5].with_columns(split=pl.lit("valid_natural"))
    users = np.concatenate([one.users[:5], one.users])
    more = replace(one, predictions=pl.concat([valid, one.predictions]), users=users)
    again = [planted[0], replace(planted[1], repetitions=[more, *planted[1].repetitions[1:]])]
    assert summary_of(again, names).to_json() == summary_of(planted, names).to_json()


@pytest.mark.parametrize(("options", "message"), [
    ({"reference": "odl"}, "reference 'odl' is no row of the study: old, new; did you mean 'old'"),
    ({"metrics": ["natural.rec"]}, "no metric 'natural.rec'; did you mean 'natural.rec_w'"),
    ({"metrics": ["tail"]}, "no metric 'tail'; did you mean 'balanced.tail'"),
    ({"metrics": ["xyz"]}, "no metric 'xyz'; known are natural.rec_w"),
    ({"groups": {"tail": np.ones(6, bool)}}, "group 'tail' stands already"),
    ({"groups": {"mine": np.ones(5, bool)}}, "group 'mine': expected a mask over the 6 behaviours"),
])
def test_settings_that_are_wrong(study, summary_of, options, message):
    with pytest.raises(UserError, match=message):
        summary_of(*study(), **options)


def test_rows_that_are_wrong(study, summary_of):
    planted, names = study()
    one = planted[1].repetitions[0]
    for row, message in (
        (replace(planted[1], repetitions=[]), "row 'new' has no repetition"),
        (replace(planted[1], repetitions=[one, one]), "row 'new' has a repetition twice: \\[0, 0\\]"),
        (planted[0], "row 'old' is there 2 times"),
    ):
        with pytest.raises(UserError, match=message):
            summary_of([planted[0], row], names)
    with pytest.raises(UserError, match="row 'old', repetition 0: made with another vocabulary than this one of 7"):
        summary_of(planted, vocabulary(7))
    with pytest.raises(UserError, match="no row of the study: it has none"):
        summary_of([], names)
    with pytest.raises(ValueError, match="3 users of 140 windows"):
        summary_of([replace(planted[0], repetitions=[replace(one, users=[1, 2, 3])])], names)


def test_windows_outside_the_vocabulary_are_missed_by_every_row_and_counted(study, summary_of):
    planted, names = study()
    strange = pl.when((pl.col("split") == "natural") & (pl.col("row") % 4 == 0)).then(pl.lit("unheard of"))
    changed = [replace(row, repetitions=[
        replace(each, predictions=each.predictions.with_columns(behavior=strange.otherwise("behavior")))
        for each in row.repetitions]) for row in planted]
    plain, found = (summary_of(rows_, names, metrics=["natural.rec_w", "balanced.overall"])
                    for rows_ in (planted, changed))
    assert plain.outside == [0] * len(plain.repetitions)
    natural = changed[0].repetitions[0].predictions.filter(split="natural")
    share = (natural["behavior"] == "unheard of").mean()
    assert found.outside == [round(share * len(natural))] * len(found.repetitions) and share > 0.2
    for one, other in zip(plain.rows, found.rows, strict=True):
        assert other.metrics["natural.rec_w"].mean.value < one.metrics["natural.rec_w"].mean.value <= 1
        assert other.metrics["natural.rec_w"].mean.value <= 1 - share
        assert other.metrics["balanced.overall"] == one.metrics["balanced.overall"]
