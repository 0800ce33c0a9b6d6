"""How far a row comes from the start to the end."""

from types import SimpleNamespace

import pytest

from stages.common.errors import UserError
from stages.studies.definitions import Way
from stages.studies.way import markdown, shares

WAY = Way(start="counting", end="oracle", metric="balanced.overall")


def summary(**means):
    def row(name, value):
        return SimpleNamespace(name=name, label=name.title(),
                               metrics={"balanced.overall": SimpleNamespace(mean=SimpleNamespace(value=value))})

    return SimpleNamespace(metrics=["balanced.overall"], rows=[row(*item) for item in means.items()])


def test_the_start_is_nothing_and_the_end_is_all_of_it():
    found = shares(summary(counting=0.2, half=0.4, behind=0.1, oracle=0.6), WAY)
    assert found == pytest.approx({"counting": 0, "half": 0.5, "behind": -0.25, "oracle": 1})


@pytest.mark.parametrize("means", [
    {"counting": 0.6, "row": 0.4, "oracle": 0.6}, {"counting": 0.6, "row": 0.4, "oracle": 0.5},
    {"counting": None, "row": 0.4, "oracle": 0.5}, {"row": 0.4, "oracle": 0.5},
])
def test_a_way_that_leads_nowhere_has_no_shares(means):
    assert set(shares(summary(**means), WAY).values()) == {None}


def test_a_row_without_a_mean_has_no_share_and_the_others_do():
    assert shares(summary(counting=0, row=None, oracle=1), WAY) == {"counting": 0, "row": None, "oracle": 1}


def test_the_table_says_between_what():
    text = markdown(summary(counting=0.2, behind=0.1, oracle=0.6), WAY)
    assert "from Counting (.200) to Oracle (.600), overall, balanced" in text
    assert "| Behind | −25% |" in text and "| Oracle | 100% |" in text


def test_a_metric_that_the_study_does_not_have_is_refused():
    with pytest.raises(UserError, match="way.metric: 'natural.mrr' is none"):
        markdown(summary(counting=0, oracle=1), WAY.model_copy(update={"metric": "natural.mrr"}))
