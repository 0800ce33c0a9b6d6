import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.model import tree as tree_module
from stages.model.tree import AnswerTree, pack, step_log_probs

END = 9
answers_of_any_kind = st.lists(
    st.lists(st.integers(1, 4), max_size=4).map(lambda tokens: [*tokens, END]), min_size=1, max_size=8
)


def path(tree, node):
    """Tokens from the prompt to a node, by its ancestors."""
    nodes = np.flatnonzero(tree.ancestors[node])
    return tree.tokens[nodes[np.argsort(tree.depth[nodes])]].tolist()


def test_shared_beginnings_are_read_once():
    tree = AnswerTree.build([[1, 2, END], [1, 3, END], [4, END], [1, 2, 5, END]])
    assert tree.tokens.tolist() == [1, 2, 3, 4, 5]
    assert tree.depth.tolist() == [0, 1, 1, 0, 2]
    assert [path(tree, node) for node in range(5)] == [[1], [1, 2], [1, 3], [4], [1, 2, 5]]
    first = tree.step_answer == 0
    assert list(zip(tree.step_source[first], tree.step_target[first], strict=True)) == [(-1, 1), (0, 2), (1, END)]


def test_an_answer_of_one_token_reads_nothing():
    tree = AnswerTree.build([[END], [3]])
    assert len(tree.tokens) == 0 and tree.ancestors.shape == (0, 0)
    assert (tree.step_source.tolist(), tree.step_target.tolist()) == ([-1, -1], [END, 3])


@settings(max_examples=50, database=None)
@given(answers_of_any_kind)
def test_the_steps_of_an_answer_spell_it_along_one_path(answers):
    tree = AnswerTree.build(answers)
    assert tree.answers == len(answers)
    for number, answer in enumerate(answers):
        steps = tree.step_answer == number
        assert tree.step_target[steps].tolist() == answer
        read = [[] if node == -1 else path(tree, node) for node in tree.step_source[steps]]
        assert read == [answer[:end] for end in range(len(answer))]
    beginnings = {tuple(answer[:end]) for answer in answers for end in range(1, len(answer))}
    assert len(tree.tokens) == len(beginnings), "no token is read twice"
    assert tree.ancestors.sum(axis=1).tolist() == (tree.depth + 1).tolist()
    assert not np.triu(tree.ancestors, 1).any(), "parents stand before their children"


@settings(max_examples=30, database=None)
@given(prefix=st.integers(0, 3), data=st.data())
def test_a_packed_token_sees_the_prefix_its_prompt_and_its_ancestors_only(prefix, data):
    trees = [AnswerTree.build(answers) for answers in data.draw(st.lists(answers_of_any_kind, min_size=1, max_size=3))]
    prompts = [data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)) for _ in trees]
    packed = pack(prompts, trees, prefix, torch.float32)
    size = max(len(prompt) + len(tree.tokens) for prompt, tree in zip(prompts, trees, strict=True))
    assert packed.input_ids.shape == packed.positions.shape == (len(trees), size)
    assert packed.mask.shape == (len(trees), size, prefix + size)
    for i, (prompt, tree) in enumerate(zip(prompts, trees, strict=True)):
        n, stop = len(prompt), len(prompt) + len(tree.tokens)
        assert packed.input_ids[i, :stop].tolist() == prompt + tree.tokens.tolist()
        assert packed.last[i] == n - 1
        assert packed.positions[i, :stop].tolist() == [prefix + k for k in range(n)] + [
            prefix + n + depth for depth in tree.depth
        ]
        seen = packed.mask[i] == 0
        assert (packed.mask[i][~seen] == torch.finfo(torch.float32).min).all()
        for at in range(stop):
            expected = set(range(prefix))
            expected |= {prefix + k for k in range(min(at + 1, n))}
            if at >= n:
                expected |= {prefix + n + k for k in np.flatnonzero(tree.ancestors[at - n])}
            assert set(torch.nonzero(seen[at]).flatten().tolist()) == expected
        assert seen.any(dim=-1).all(), "a row that sees nothing is NaN"
        assert not seen[:, prefix:].triu(1).any(), "a reader may leave out what stands behind a token"


@pytest.mark.parametrize("rows", [1, 2, 128])
def test_an_answers_log_probability_is_the_sum_over_its_tokens(monkeypatch, rows):
    monkeypatch.setattr(tree_module, "_HEAD_ROWS", rows)
    torch.manual_seed(0)
    answers = [[1, 2, END], [1, END], [END], [3, 4, END]]
    tree, head = AnswerTree.build(answers), torch.nn.Linear(6, 12, bias=False)
    hidden = torch.randn(1 + len(tree.tokens), 6)
    log_p = head(hidden).log_softmax(dim=-1)
    nodes = {(): 0, (1,): 1, (1, 2): 2, (3,): 3, (3, 4): 4}
    expected = [
        sum(log_p[nodes[tuple(answer[:k])], token] for k, token in enumerate(answer)) for answer in answers
    ]
    assert torch.allclose(step_log_probs(hidden, tree, head), torch.stack(expected), atol=1e-6)


@pytest.mark.parametrize("rows", [2, 128])
def test_gradients_reach_every_hidden_state_that_predicts(monkeypatch, rows):
    monkeypatch.setattr(tree_module, "_HEAD_ROWS", rows)
    torch.manual_seed(0)
    tree, head = AnswerTree.build([[1, 2, END], [3, END]]), torch.nn.Linear(6, 12, bias=False)
    hidden = torch.randn(1 + len(tree.tokens), 6, requires_grad=True)
    log_p = head(hidden).log_softmax(dim=-1)
    first, second = log_p[0, 1] + log_p[1, 2] + log_p[2, END], log_p[0, 3] + log_p[3, END]
    (expected,) = torch.autograd.grad(2 * first - second, hidden)
    found = step_log_probs(hidden, tree, head)
    (found,) = torch.autograd.grad(2 * found[0] - found[1], hidden)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert found.abs().amax(dim=1).min() > 1e-2


def test_log_probabilities_are_summed_in_float32():
    torch.manual_seed(0)
    tree, head = AnswerTree.build([[1] * 30 + [END]]), torch.nn.Linear(6, 12, bias=False)
    hidden = torch.randn(1 + len(tree.tokens), 6)
    low = step_log_probs(hidden.bfloat16(), tree, head.bfloat16())
    logits = torch.nn.functional.linear(hidden.bfloat16(), head.weight).float()
    expected = logits.log_softmax(dim=-1)[torch.arange(31), torch.tensor([1] * 30 + [END])].sum()
    assert low.dtype == torch.float32 and torch.allclose(low, expected, atol=1e-4)
