import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.common import tables
from stages.common.errors import UserError
from stages.model.fused import TargetLoss
from stages.training.adjustment import NO_NODE, LogitAdjustment, children, first_spans

END = 9
# a common one; two with a beginning of their own, one of which the other goes on from; an only child of its node
LABELS = [(1, END), (2, END), (2, 3, END), (4, 5, END)]
SHARES = [0.5, 0.3, 0.15, 0.05]


def vocabulary(shares=SHARES):
    names = [f"behaviour {number}" for number in range(len(shares))]
    return pl.DataFrame({
        "behavior": names, "train_events": [1] * len(shares), "share": shares, "group": "head", "is_anchor": True,
    }, schema=tables.SCHEMAS["vocabulary"])


def sequences(labels=LABELS, behaviors=None):
    """One sequence a label, its target between two other tokens."""
    rows = [([7, *label, 8], [1], [1 + len(label)], [number], [number])
            for number, label in zip(behaviors or range(len(labels)), labels, strict=True)]
    return pl.DataFrame(rows, schema=tables.SCHEMAS["instructions"], orient="row")


def adjustment(labels=LABELS, shares=SHARES, trained=None, tau=1.0):
    trained = range(len(labels)) if trained is None else trained
    return LogitAdjustment.of(sequences(labels), vocabulary(shares), trained, tau)


def shifts_at(found, *prefix):
    """What is added to each child of the node behind the tokens `prefix`; zeros left out."""
    tokens, shifts = found.at(torch.tensor([found.numbers.get(prefix, NO_NODE)]))
    return {token: shift for token, shift in zip(tokens[0].tolist(), shifts[0].tolist(), strict=True) if shift}


@pytest.mark.parametrize("tau", [0.5, 1.0, 3.0])
def test_shifts_by_hand(tau):
    found = adjustment(tau=tau)
    # the mean share of the labels below a child, against that of all below its node: 1/4 at the root, 0.45/2 behind 2
    means = {1: 0.5 / 0.25, 2: (0.45 / 2) / 0.25, 4: 0.05 / 0.25}
    assert shifts_at(found) == pytest.approx({token: tau * np.log(mean) for token, mean in means.items()})
    assert shifts_at(found, 2) == pytest.approx({END: tau * np.log(0.3 / 0.225), 3: tau * np.log(0.15 / 0.225)})
    assert found.numbers.keys() == {(), (2,)}, "a node with one child is not shifted"
    assert found.shifts.dtype == torch.float32 and not found.shifts[-1].any()


def test_only_what_is_trained_on_counts():
    found = adjustment(trained=[0, 2, 3])
    assert shifts_at(found) == pytest.approx({
        1: np.log(3 * 0.5 / 0.7), 2: np.log(3 * 0.15 / 0.7), 4: np.log(3 * 0.05 / 0.7)
    })
    assert shifts_at(found, 2) == {}, "label 1 ends there, but is not trained on"
    assert adjustment(trained=[2]).numbers == {}


def test_a_label_that_no_training_sequence_has_stands_outside():
    found = LogitAdjustment.of(sequences(LABELS[:3]), vocabulary(), range(4), 1.0)
    assert shifts_at(found) == pytest.approx({1: np.log(0.5 * 3 / 0.95), 2: np.log(0.45 / 2 * 3 / 0.95)})
    assert found.nodes_of(3, LABELS[3]) == [0, NO_NODE, NO_NODE], "it stands at the root as others do"


def test_the_nodes_of_a_labels_tokens():
    found = adjustment()
    root, second = found.numbers[()], found.numbers[(2,)]
    for behavior, nodes in enumerate([
        [root, NO_NODE], [root, second], [root, second, NO_NODE], [root, NO_NODE, NO_NODE],
    ]):
        assert found.nodes_of(behavior, LABELS[behavior]) == nodes
    assert found.nodes_of(-1, [1, END]) == [NO_NODE] * 2, "a conversation that says the same is none"


def test_other_tokens_of_the_same_behaviour_are_refused_by_name():
    with pytest.raises(UserError, match=r"sft.logit_adjustment: 'behaviour 1' has the tokens \[2, 9\] in one target"):
        adjustment().nodes_of(1, [2, 2, END])


def test_a_share_of_0_is_refused_by_name_where_it_is_trained_on():
    shares = [0.5, 0.5, 0.0, 0.0]
    assert adjustment(shares=shares, trained=[0, 1]).numbers
    with pytest.raises(UserError, match="sft.logit_adjustment: 1: 'behaviour 2' has a share of 0.0"):
        adjustment(shares=shares)


def test_the_tree_does_not_depend_on_the_order_of_the_sequences():
    one = adjustment()
    other = LogitAdjustment.of(sequences(LABELS[::-1], [3, 2, 1, 0]), vocabulary(), [3, 1, 0, 2], 1.0)
    assert torch.equal(one.tokens, other.tokens) and torch.equal(one.shifts, other.shifts)
    assert one.numbers == other.numbers


def test_the_first_span_of_a_behaviour_is_its_label():
    frame = pl.DataFrame(
        [([5, 1, 2, 6, 3, 4], [1, 4], [3, 6], [0, 2], [8, 9]), ([7, 1, 1], [1], [3], [0], [5]), ([8], [], [], [], [])],
        schema=tables.SCHEMAS["instructions"], orient="row",
    )
    assert first_spans(frame) == {0: (1, 2), 2: (3, 4)}


@st.composite
def trees(draw):
    """Distinct labels with a terminator, and their shares."""
    labels = draw(st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple), min_size=1, max_size=8,
                           unique=True))
    weights = draw(st.lists(st.floats(0.001, 1), min_size=len(labels), max_size=len(labels)))
    return [(*label, END) for label in labels], (np.array(weights) / sum(weights)).tolist()


quick = settings(max_examples=60, database=None)


def along(found, label):
    """The sum of the shifts of a label's tokens."""
    return sum(shifts_at(found, *label[:end]).get(token, 0.0) for end, token in enumerate(label))


@quick
@given(trees(), st.floats(0.1, 3))
def test_shifts_along_a_label_sum_to_its_log_prior_and_what_all_labels_have_in_common(tree, tau):
    labels, shares = tree
    found = adjustment(labels, shares, tau=tau)
    for behavior, label in enumerate(labels):
        expected = tau * (np.log(shares[behavior]) - np.log(np.mean(shares)))
        assert along(found, label) == pytest.approx(expected, abs=1e-4)


@quick
@given(trees(), st.floats(0.1, 3))
def test_labels_of_the_same_prior_are_not_shifted_at_all(tree, tau):
    labels, _ = tree
    found = adjustment(labels, [1 / len(labels)] * len(labels), tau=tau)
    assert torch.allclose(found.shifts, torch.zeros(()), atol=1e-6)


@quick
@given(trees())
def test_nothing_is_shifted_where_tau_is_0(tree):
    assert not adjustment(*tree, tau=0.0).shifts.any()


@quick
@given(trees(), st.sampled_from([0.2, 1.0, 3.0]))
def test_the_mean_odds_over_the_labels_below_a_node_stay(tree, tau):
    labels, shares = tree
    found, below = adjustment(labels, shares, tau=tau), children(dict(enumerate(labels)), [1.0] * len(labels))
    for prefix, counts in below.items():
        odds = [np.exp(shifts_at(found, *prefix).get(token, 0.0) / tau) for token in counts]
        assert np.average(odds, weights=list(counts.values())) == pytest.approx(1, abs=1e-4)


@quick
@given(trees())
def test_an_adjusted_model_that_gives_every_label_its_prior_is_uniform_over_labels_without_the_shifts(tree):
    labels, shares = tree
    found, nodes = adjustment(labels, shares), children(dict(enumerate(labels)), shares)
    log_p = np.zeros(len(labels))
    for behavior, label in enumerate(labels):
        for end, token in enumerate(label):
            masses, shifts = nodes[label[:end]], shifts_at(found, *label[:end])
            # the logits whose adjusted softmax is the prior
            learned = {child: np.log(mass) - shifts.get(child, 0.0) for child, mass in masses.items()}
            log_p[behavior] += learned[token] - np.logaddexp.reduce(list(learned.values()))
    assert np.allclose(np.exp(log_p), 1 / len(labels), atol=1e-5)


@pytest.mark.parametrize(("tau", "expected"), [(0, [0.6, 0.3, 0.1]), (1, [1 / 3] * 3), (2, [1 / 9, 2 / 9, 6 / 9])])
def test_training_comes_to_rest_where_the_prior_is_taken_out_of_the_model(tau, expected):
    """At a root with children of 6, 3 and 1 of 10 targets: chances in proportion to prior ** (1 - τ)."""
    found = adjustment([(1,), (2,), (3,)], [0.6, 0.3, 0.1], tau=tau)
    logits = torch.tensor([-40.0, *np.log(expected)], dtype=torch.float32).repeat(10, 1).requires_grad_()
    targets = torch.tensor([1] * 6 + [2] * 3 + [3])
    loss = TargetLoss.apply(logits, torch.eye(4), None, targets, found.at(torch.zeros_like(targets)))
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient.sum(dim=0), torch.zeros(4), atol=1e-5, rtol=0)
