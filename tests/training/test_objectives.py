"""The maths of training, each by its definition, and a new objective as one line."""

import math
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError

from stages.training.objectives import OBJECTIVES, Objective, PairLogProbs, completion
from stages.training.settings import Dpo
from tests.small_log import small_params


def some_pairs():
    values = -torch.rand(4, 5, generator=torch.Generator().manual_seed(0)) * 5
    return PairLogProbs(*values)


def params(**changes):
    return SimpleNamespace(**({"beta": 0.3, "nll_weight": 0} | changes))


@pytest.mark.parametrize("nll_weight", [0, 0.5, 3])
def test_dpo_is_what_the_paper_defines_and_the_likelihood_beside_it(nll_weight):
    pairs = some_pairs()
    losses, columns = [], (each.tolist() for each in vars(pairs).values())
    for chosen, rejected, ref_chosen, ref_rejected in zip(*columns, strict=True):
        margin = 0.3 * (math.log(math.exp(chosen - ref_chosen)) - math.log(math.exp(rejected - ref_rejected)))
        losses.append(-math.log(1 / (1 + math.exp(-margin))) - nll_weight * chosen)
    found = OBJECTIVES["dpo"].loss(pairs, params(nll_weight=nll_weight))
    assert found.item() == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_dpo_is_ln_2_where_the_model_is_the_reference():
    chosen, rejected = -torch.rand(2, 5)
    pairs = PairLogProbs(chosen, rejected, chosen, rejected)
    assert OBJECTIVES["dpo"].loss(pairs, params()).item() == pytest.approx(math.log(2))


def test_the_likelihood_alone_asks_for_no_reference():
    pairs = PairLogProbs(torch.tensor([-1.0, -3.0]), torch.tensor([-9.0, -9.0]), None, None)
    assert OBJECTIVES["sft"].loss(pairs, params()).item() == 2.0 and not OBJECTIVES["sft"].uses_reference


def test_completion_is_the_summed_cross_entropy_of_logits_that_may_be_shifted():
    torch.manual_seed(0)
    head, hidden, targets = torch.nn.Linear(6, 9), torch.randn(4, 6), torch.tensor([0, 3, 8, 3])
    tokens, shifts = torch.tensor([[0, 1]] * 4), torch.tensor([[0.5, -1.0]] * 4)
    logits = head(hidden)
    for expected, more in ((logits, ()), (logits.scatter_add(1, tokens, shifts), ((tokens, shifts),))):
        loss = torch.nn.functional.cross_entropy(expected, targets, reduction="sum")
        assert completion(hidden, head, targets, *more).item() == pytest.approx(loss.item(), rel=1e-5)


def test_an_objective_is_one_line_of_the_table(monkeypatch):
    with pytest.raises(ValidationError, match="Input should be 'dpo' or 'sft'"):
        Dpo(**small_params().dpo.model_dump() | {"objective": "hinge"})
    hinge = Objective(lambda pairs, params: torch.relu(1 - pairs.margins(params.beta)).mean(), uses_reference=True)
    monkeypatch.setitem(OBJECTIVES, "hinge", hinge)
    assert Dpo(**small_params().dpo.model_dump() | {"objective": "hinge"}).objective == "hinge"


def test_settings_are_read_without_torch():
    code = "import sys, stages.training.settings; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
