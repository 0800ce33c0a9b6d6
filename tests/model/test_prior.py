"""What a language model is told of an event by the model of habits: the table, the vectors, a factor of likelihoods."""

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.common import tables
from stages.common.errors import UserError
from stages.common.tables import PRIOR_TOKENS
from stages.model.load import load_base, load_tokenizer
from stages.model.prior import Prior, told
from stages.model.tree import AnswerTree, step_log_probs
from tests.small_log import BEHAVIORS, all_behaviors

END = 9
V = len(BEHAVIORS)
answers_of_any_kind = st.lists(
    st.lists(st.integers(1, 4), max_size=4).map(lambda tokens: [*tokens, END]), min_size=1, max_size=8, unique_by=tuple)


def priors(log_p_of):
    return pl.DataFrame({"row": list(log_p_of), "log_p": list(log_p_of.values())}, schema=tables.SCHEMAS["prior"])


def test_rows_are_found_in_any_order_with_as_many_candidates_as_they_have():
    prior = Prior(priors({7: [-1.0, -2.0], 3: [-0.5, -1.5, -2.5]}))
    assert [each.tolist() for each in prior.of([7, 3, 7])] == [[-1, -2], [-0.5, -1.5, -2.5], [-1, -2]]
    for absent in ([3, 5], [8], [0]):
        with pytest.raises(UserError, match=f"prior: no row {absent[-1]}: .*`dvc repro` again"):
            prior.of(absent)
    with pytest.raises(UserError, match="prior: no row 0"):
        Prior(priors({})).of([0])


@settings(max_examples=40, database=None, deadline=None)
@given(answers_of_any_kind, st.integers(0, 99))
def test_a_prior_is_added_to_the_logits_of_a_node_as_the_shares_of_what_is_behind_its_children(answers, seed):
    torch.manual_seed(seed)
    tree, head = AnswerTree.build(answers), torch.nn.Linear(6, 12, bias=False)
    hidden = torch.randn(1 + len(tree.tokens), 6)
    log_prior = torch.randn(len(answers)).log_softmax(dim=0).numpy()
    logits, nodes = head(hidden).detach(), {(): 0}
    for row, answer in enumerate(tree.ancestors):
        at = np.flatnonzero(answer)
        nodes[tuple(tree.tokens[at[np.argsort(tree.depth[at])]].tolist())] = row + 1
    expected = np.zeros(len(answers))
    for number, answer in enumerate(answers):
        for end, token in enumerate(answer):
            mass: dict[int, float] = {}
            for other, log_p in zip(answers, log_prior, strict=True):
                if len(other) > end and other[:end] == answer[:end]:
                    mass[other[end]] = mass.get(other[end], 0) + float(np.exp(log_p))
            shifted = logits[nodes[tuple(answer[:end])]].clone()
            for child, share in mass.items():
                shifted[child] += float(np.log(share / max(mass.values())))
            expected[number] += float(shifted.log_softmax(dim=0)[token])
    found = step_log_probs(hidden, tree, head, log_prior)
    np.testing.assert_allclose(found.detach(), expected, atol=1e-5)


def test_without_a_word_of_the_models_answers_that_differ_at_once_are_as_likely_as_the_prior_has_them():
    tree = AnswerTree.build([[1, END], [2, END], [3, END]])
    log_prior = np.log(np.array([0.7, 0.2, 0.1], dtype=np.float32))
    found = step_log_probs(torch.zeros(1 + len(tree.tokens), 6), tree, torch.nn.Linear(6, 12, bias=False), log_prior)
    np.testing.assert_allclose(found.log_softmax(dim=0).detach(), log_prior, atol=1e-6)


@pytest.fixture
def told_model(tiny_base):
    """A model that is told of event 5 that the first behaviour is certain, of event 6 that the first two are alike."""
    model, tokenizer = load_base(tiny_base, torch.float32), load_tokenizer(tiny_base)
    sure, unsure = np.full(V + 1, -np.inf), np.full(V, -np.inf)
    sure[0], unsure[:2] = 0, np.log(0.5)
    words = model.get_input_embeddings()
    assert told(model, tokenizer, all_behaviors(), priors({5: sure, 6: unsure}), "vector", []) == []
    return model.get_input_embeddings(), words, tokenizer


def test_the_token_of_an_event_is_read_as_the_mean_of_the_names_by_their_probability(told_model):
    embedding, words, tokenizer = told_model
    name = [words.weight[tokenizer(f" {label}", add_special_tokens=False).input_ids].mean(dim=0) for label in BEHAVIORS]
    scale = words.weight.norm(dim=-1).mean() / torch.stack(name).norm(dim=-1).mean()
    ids = torch.tensor([[4, PRIOR_TOKENS + 6, 7, PRIOR_TOKENS + 5]])
    found = embedding(ids)[0]
    torch.testing.assert_close(found[[0, 2]], words(torch.tensor([4, 7])), msg="ordinary tokens are what they were")
    torch.testing.assert_close(found[3], scale * name[0])
    torch.testing.assert_close(found[1], scale * (name[0] + name[1]) / 2)


def test_an_event_that_nobody_spoke_of_is_an_error(told_model):
    with pytest.raises(UserError, match="prior: no row 9"):
        told_model[0](torch.tensor([PRIOR_TOKENS + 9]))


def test_who_is_told_nothing_is_left_alone(tiny_base):
    model = load_base(tiny_base, torch.float32)
    words = model.get_input_embeddings()
    assert told(model, load_tokenizer(tiny_base), all_behaviors(), None, "none", [1]) == []
    assert model.get_input_embeddings() is words
    with pytest.raises(UserError, match="prior: no row 1"):
        told(model, load_tokenizer(tiny_base), all_behaviors(), None, "logits", [1])
