"""How much of the gap between a baseline and the ceiling a row closes."""

from types import SimpleNamespace

import pytest

from stages.common.errors import UserError
from stages.studies.definitions import Gap
from stages.studies.table import gap_table, gaps_closed

GAP = Gap(baseline="counting", ceiling="oracle", metric="balanced.overall")


def summary(**means):
    def row(name, value):
        return SimpleNamespace(name=name, label=name.title(),
                               metrics={"balanced.overall": SimpleNamespace(mean=SimpleNamespace(value=value))})

    return SimpleNamespace(metrics=["balanced.overall"], rows=[row(*item) for item in means.items()])


def test_the_baseline_closes_nothing_and_the_ceiling_all_of_it():
    found = gaps_closed(summary(counting=0.2, half=0.4, behind=0.1, oracle=0.6), GAP)
    assert found == pytest.approx({"counting": 0, "half": 0.5, "behind": -0.25, "oracle": 1})


@pytest.mark.parametrize("means", [
    {"counting": 0.6, "row": 0.4, "oracle": 0.6}, {"counting": 0.6, "row": 0.4, "oracle": 0.5},
    {"counting": None, "row": 0.4, "oracle": 0.5}, {"row": 0.4, "oracle": 0.5},
])
def test_a_gap_that_is_none_has_no_shares(means):
    assert set(gaps_closed(summary(**means), GAP).values()) == {None}


def test_a_row_without_a_mean_has_no_share_and_the_others_do():
    assert gaps_closed(summary(counting=0, row=None, oracle=1), GAP) == {"counting": 0, "row": None, "oracle": 1}


def test_the_table_says_between_what():
    text = gap_table(summary(counting=0.2, behind=0.1, oracle=0.6), GAP)
    assert "from Counting (.200) to Oracle (.600), overall, balanced" in text
    assert "| Behind | −25% |" in text and "| Oracle | 100% |" in text


def test_a_metric_that_the_study_does_not_have_is_refused():
    with pytest.raises(UserError, match="gap.metric: 'natural.mrr' is none"):
        gap_table(summary(counting=0, oracle=1), GAP.model_copy(update={"metric": "natural.mrr"}))
