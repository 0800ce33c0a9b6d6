import re
from dataclasses import replace

import pytest

from stages.reports.answer import answer, question
from stages.reports.differences import Difference, differences, metric
from stages.reports.labels import number
from stages.studies.repository import commit
from stages.studies.table import gap_closed

KEYS = ("balanced.overall", "balanced.tail", "natural.rec_w")


@pytest.fixture(scope="module")
def found(material):
    return differences(material)


def words(parts):
    return re.sub(r"<[^>]+>", "", " ".join(parts))


def planted(found, balanced, natural):
    """The differences, those of B-Tuning from no tuning replaced."""
    own = {"balanced.overall": balanced, "balanced.tail": balanced, "natural.rec_w": natural}
    return found | {("plain", "dpo", "base"): own}


AHEAD, BEHIND, OPEN = Difference(0.1, 0.05, 0.15), Difference(-0.1, -0.15, -0.05), Difference(0.1, 0.0, 0.2)


def test_a_difference_has_a_sign_only_where_its_interval_excludes_0():
    assert [one.sign for one in (AHEAD, BEHIND, OPEN, Difference(0.1, None, None))] == [1, -1, 0, None]


@pytest.mark.parametrize(("balanced", "natural", "says"), [
    (AHEAD, AHEAD, "Yes: it is ahead"), (AHEAD, OPEN, "Yes, on the balanced"), (AHEAD, BEHIND, "at a cost"),
    (OPEN, OPEN, "Not shown: neither"), (OPEN, AHEAD, "On the natural test set only"), (OPEN, BEHIND, "No: "),
    (BEHIND, AHEAD, "on the balanced one it is behind"), (BEHIND, OPEN, "No: "),
    (BEHIND, BEHIND, "behind no tuning on both"),
    (Difference(0.1, None, None), AHEAD, "nothing can be said to be shown"),
])
def test_the_verdict_says_what_the_intervals_say(material, found, balanced, natural, says):
    verdict = words(answer(material, planted(found, balanced, natural))[:1])
    assert says in verdict and "simulated log" in verdict


def test_every_sentence_agrees_with_the_metrics_and_the_intervals(material, found):
    said = words(answer(material, found))
    for decision, first, second, name in [("plain", "dpo", "base", key) for key in KEYS] + [
        ("plain", "sft", "base", "balanced.tail"), ("plain", "dpo", "markov", "natural.rec_w"),
        ("adjusted", "dpo", "base", "balanced.overall"), ("adjusted", "dpo", "markov", "balanced.overall"),
    ]:
        difference = found[decision, first, second][name]
        sides = [metric(material.metrics[row], decision, name) for row in (first, second)]
        assert sides[0] - sides[1] == pytest.approx(difference.value)
        excludes = "excludes" if difference.low > 0 or difference.high < 0 else "includes"
        assert (f"difference {number(difference.value, sign=True)} (95 % interval {number(difference.low)} to "
                f"{number(difference.high)}), which {excludes} 0") in said
        assert all(number(side) in said for side in sides)


def test_counting_is_named_beside_the_verdict(material, found):
    ahead = found | {(decision, "dpo", "markov"): dict.fromkeys(KEYS, BEHIND) for decision in ("plain", "adjusted")}
    assert "it is behind on the balanced test set, behind on the natural one" in words(answer(material, ahead))


def test_without_predictions_nothing_is_claimed_and_the_cure_is_named(material):
    said = words(answer(replace(material, predictions={}), {}))
    assert "dvc pull" in said and "excludes" not in said and "ahead of" not in said


def test_without_b_tuning_there_is_no_answer_yet(material):
    only = replace(material, metrics={"base": material.metrics["base"]})
    assert "dvc repro evaluate@dpo" in words(answer(only, {}))


def test_a_real_log_is_not_called_simulated(material, found):
    counts = material.counts | {"ingest": material.counts["ingest"] | {"format": "table"}}
    metrics = {name: values for name, values in material.metrics.items() if "oracle" not in name}
    said = words(answer(replace(material, counts=counts, metrics=metrics), found))
    assert "simulated" not in said.lower() and "oracle" not in said


def test_a_tau_that_was_given_is_not_called_chosen(material, found):
    assert "each chosen on validation windows" in words(answer(material, found))
    fixed = replace(material, ran_with=material.ran_with | {"evaluate.tau": 1.0})
    said = words(answer(fixed, found))
    assert "chosen on validation" not in said and "of evaluate.tau)" in said


@pytest.mark.parametrize(("labels", "asked", "says"), [
    ("anchors", "Does progressive tuning help", "What B-Tuning adds to A-Tuning."),
    ("all", "Does SFT on all, then B-Tuning, help", "What B-Tuning adds to SFT on all."),
    ("none", "Does B-Tuning alone help", None),
])
def test_the_start_is_called_by_what_it_was_tuned_on(material, found, labels, asked, says):
    other = replace(material, ran_with=material.ran_with | {"sft.labels": labels})
    said = words(answer(other, found))
    assert question(other).startswith(asked)
    assert says in said if says else "adds to" not in said
    assert ("A-Tuning" in said) == (labels == "anchors")


def test_the_rival_that_trains_nothing_more_is_named(material, found):
    assert "python -m stages.study recipes" in words(answer(material, found))
    study = replace(material.studies[0], simulated=True, log="simulated")
    reference = next(row for row in study.summary.rows if row.name == study.summary.reference)
    other = next(row for row in study.summary.rows if row.name != study.summary.reference)
    rival = {"model": "sft", "decision": "adjusted", "set": {"sft.labels": "all"}}

    def said(study):
        return words(answer(replace(material, studies=[study]), found))

    named = said(replace(study, settings={other.name: rival}))
    difference = next(iter(other.metrics.values())).difference
    assert f"the row “{other.label}” of the study" in named and f"from “{reference.label}” is" in named
    assert number(difference.value, sign=True) in named and "stages.study recipes" not in named
    assert "with which its other rows are compared" in said(replace(study, settings={reference.name: rival}))
    for change in ({"decision": "plain"}, {"model": "dpo"}, {"set": {"sft.labels": "anchors"}}):
        assert "stages.study recipes" in said(replace(study, settings={other.name: rival | change}))
    assert "stages.study recipes" in said(replace(study, settings={other.name: rival}, log="table", simulated=False))


@pytest.mark.parametrize(("row", "gone"), [(0.2, 0.0), (0.6, 1.0), (0.4, 0.5), (0.1, -0.25)])
def test_the_share_of_the_way(row, gone):
    assert gap_closed(row, 0.2, 0.6) == pytest.approx(gone)
    assert gap_closed(row, 0.2, 0.205) is None and gap_closed(None, 0.2, 0.6) is None and gap_closed(row, 0.6, 0.2) is None


def test_no_commit_outside_git(tmp_path):
    assert commit(tmp_path / "nowhere").name is None
