"""What training minimises: pure functions over tensors, of which none reads a model.

SFT minimises `completion`, with shifts where `sft.logit_adjustment` is not 0. DPO minimises what `dpo.objective` names
in `OBJECTIVES`: a new way to learn from pairs is one function and its line there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # settings are read by stages that need no torch
    import torch


@dataclass(frozen=True)
class PairLogProbs:
    """Log-probabilities (B,) of B pairs' answers under the model, and the reference's, None where it is not used."""

    chosen: "torch.Tensor"
    rejected: "torch.Tensor"
    ref_chosen: "torch.Tensor"
    ref_rejected: "torch.Tensor"

    def margins(self, beta: float) -> "torch.Tensor":
        """β times how much more the model prefers the chosen answers than the reference does (B,)."""
        return beta * ((self.chosen - self.ref_chosen) - (self.rejected - self.ref_rejected))


@dataclass(frozen=True)
class Objective:
    """Attributes:
        loss: mean over the pairs; the second argument is section `dpo` of the params.
        uses_reference: whether it compares with the model as it was given.
    """

    loss: Callable[[PairLogProbs, Any], "torch.Tensor"]
    uses_reference: bool


def completion(
    hidden: "torch.Tensor", head: "torch.nn.Linear", targets: "torch.Tensor",
    shifts: "tuple[torch.Tensor, torch.Tensor] | None" = None,
) -> "torch.Tensor":
    """Cross-entropy of the tokens `targets` (N,) that follow the states `hidden` (N, H), summed, in float32.

    Args:
        head: frozen.
        shifts: tokens (N, K) and what is added to their logits (N, K): the logit-adjusted loss of adjustment.py.
    """
    from stages.model.fused import TargetLoss

    return TargetLoss.apply(hidden.to(head.weight.dtype), head.weight, head.bias, targets, shifts)


def chosen_likelihood(pairs: PairLogProbs, params: Any) -> "torch.Tensor":
    """Negative log-likelihood of the chosen answers alone ("w/o DPO")."""
    return -pairs.chosen.mean()


def preference(pairs: PairLogProbs, params: Any) -> "torch.Tensor":
    """DPO (Rafailov et al. 2023, the paper's Eq. 4), and `nll_weight` times the chosen answers' likelihood with it."""
    from torch.nn.functional import logsigmoid

    loss = -logsigmoid(pairs.margins(params.beta)).mean()
    return loss + params.nll_weight * chosen_likelihood(pairs, params) if params.nll_weight else loss


OBJECTIVES: dict[str, Objective] = {
    "dpo": Objective(preference, uses_reference=True),
    "sft": Objective(chosen_likelihood, uses_reference=False),
}
