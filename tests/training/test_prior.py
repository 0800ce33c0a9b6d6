"""A prior of each target in the loss: the shifts are those with which its answers are scored afterwards."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.common import tables
from stages.common.errors import UserError
from stages.model.prior import Prior
from stages.model.tree import AnswerTree
from stages.training.adjustment import NO_NODE
from stages.training.prior import PriorAdjustment
from stages.training.sequences import labelled

END = 9
LABELS = [[1, 2, END], [1, 3, END], [4, END], [1, 2, 5, END]]


def sequences(behaviors, first=0):
    """One sequence a target, that of row `first`, `first` + 1, ...; and a conversation."""
    rows = [([7, *LABELS[number]], [1], [1 + len(LABELS[number])], [number], [first + at])
            for at, number in enumerate(behaviors)]
    rows.append(([7, 4, END], [1], [3], [-1], [-1]))
    return pl.DataFrame(rows, schema=tables.SCHEMAS["instructions"], orient="row")


def prior_of(log_p, first=0):
    columns = {"row": range(first, first + len(log_p)), "log_p": [each.tolist() for each in log_p]}
    return Prior(pl.DataFrame(columns, schema=tables.SCHEMAS["prior"]))


@settings(max_examples=30, database=None, deadline=None)
@given(behaviors=st.permutations([0, 1, 2, 3, 3, 0]), own=st.integers(0, 2), seed=st.integers(0, 99))
def test_a_label_is_trained_with_the_shifts_that_it_is_scored_with(behaviors, own, seed):
    log_p = np.log(np.random.default_rng(seed).dirichlet(np.ones(4 + own), len(behaviors)))
    adjustment = PriorAdjustment.of(sequences(behaviors, 50), range(4), prior_of(log_p, 50))
    tree = AnswerTree.build(LABELS)
    for at, number in enumerate(behaviors):
        shifts = tree.shifts(log_p[at, :4])  # what the person did outside the vocabulary is nobody's training
        scored = shifts[tree.step_answer == number]
        nodes = adjustment.nodes_of(number, LABELS[number], 50 + at)
        for token, shift, node in zip(LABELS[number], scored, nodes, strict=True):
            trained = dict(zip(adjustment.tokens[node].tolist(), adjustment.shifts[node].tolist(), strict=True))
            assert trained.get(token, 0) == pytest.approx(shift, abs=1e-4)
        assert nodes[0] != NO_NODE, "all labels meet at the root"


def test_only_what_is_trained_has_a_node_and_conversations_have_none():
    log_p = np.log(np.full((3, 4), 0.25))
    adjustment = PriorAdjustment.of(sequences([0, 1, 2]), [0, 1], prior_of(log_p))
    found = labelled(sequences([0, 1, 2]), [0, 1, -1], adjustment)
    assert len(found) == 3 and found["nodes"][2] == [NO_NODE] * 3
    # 0 and 1 both begin with 1, so that they part behind it
    assert [[node == NO_NODE for node in nodes] for nodes in found["nodes"][:2]] == [[True, True, False, True]] * 2
    assert len(adjustment.shifts) == 3 and adjustment.shifts[-1].eq(0).all()


def test_a_target_without_a_prior_is_an_error():
    with pytest.raises(UserError, match="prior: no row 2"):
        PriorAdjustment.of(sequences([0, 1, 2]), [0, 1, 2], prior_of(np.log(np.full((2, 4), 0.25))))


def test_what_the_prior_has_for_impossible_is_unlikely_and_no_more():
    log_p = np.array([[0.0, -np.inf, -np.inf, -np.inf]])
    adjustment = PriorAdjustment.of(sequences([2, 0], 0)[:1], [2, 0], prior_of(log_p))
    assert np.isfinite(adjustment.shifts.numpy()).all()
