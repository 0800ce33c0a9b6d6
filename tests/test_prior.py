"""Stages `prior` and `untold`: what is told of whom, and by a model that was fitted on whom."""

import numpy as np
import polars as pl
import pytest

from stages.common import tables
from stages.common.errors import UserError
from stages.past import saved
from stages.prior import prior
from stages.untold import untold
from stages.windows.past import Past
from tests.past.people import two_kinds_of_people
from tests.test_habits import made, params

EVENTS, WINDOWS, VOCABULARY = two_kinds_of_people()
PAST = Past.from_tables(EVENTS, VOCABULARY)


@pytest.fixture(scope="module")
def habits(tmp_path_factory):
    _, _, (model, names) = made()
    folder = tmp_path_factory.mktemp("models") / "habits"
    saved.write(model, names, folder)
    return folder


def run(habits, how, asked=None, vocabulary=VOCABULARY):
    return prior(EVENTS.lazy(), WINDOWS, vocabulary, params(prompt__prior=asked or how), habits, how)


@pytest.mark.parametrize("how", ["logits", "vector"])
def test_who_is_trained_on_is_told_by_models_that_never_saw_them_and_the_others_by_the_one_there_is(habits, how):
    frame, counts = run(habits, how)
    tables.check(frame, "prior", "x")
    rows = frame["row"].to_numpy()
    expected = np.arange(len(EVENTS)) if how == "vector" else WINDOWS["row"].unique().sort().to_numpy()
    assert rows.tolist() == expected.tolist() and counts == {"rows": len(rows)}
    assert frame["log_p"].list.len().to_list() == (len(VOCABULARY) + PAST.own[rows]).tolist()
    same = saved.read(habits)[0].log_p(PAST, rows)
    trained = np.isin(PAST.first[rows], PAST.first[WINDOWS.filter(split="train")["row"].to_numpy()])
    assert 0 < trained.sum() < len(rows)
    alike = np.array([np.allclose(one, other.to_numpy(), atol=1e-4)
                      for one, other in zip(same, frame["log_p"], strict=True)])
    assert alike[~trained].all() and not alike[trained].any()
    total = frame["log_p"].list.eval(pl.element().cast(pl.Float64).exp().sum()).explode()
    np.testing.assert_allclose(total, 1, atol=1e-5)


@pytest.mark.parametrize("asked", ["none", "vector"])
def test_nobody_who_is_not_to_be_told_so_is(habits, asked):
    frame, counts = run(habits, "logits", asked)
    assert frame.is_empty() and counts == {"rows": 0}
    tables.check(frame, "prior", "x")
    assert frame.equals(untold(None)[0])


def test_a_model_of_other_behaviours_is_refused(habits):
    with pytest.raises(UserError, match="of another vocabulary; run `dvc repro habits`"):
        run(habits, "logits", vocabulary=VOCABULARY[::-1])
