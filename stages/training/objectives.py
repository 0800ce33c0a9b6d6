"""What training minimises: pure functions over tensors, of which none reads a model.

SFT minimises `completion`, with shifts where `sft.logit_adjustment` is not 0. DPO minimises what `dpo.objective` names
in `OBJECTIVES`: a new way to learn from pairs is one function and its line there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # settings are read by stages that need no torch
    from torch import Tensor, nn


@dataclass(frozen=True)
class PairLogProbs:
    """Log-probabilities (B,) of B pairs' answers under the model, and the reference's, None where it is not used."""

    chosen: "Tensor"
    rejected: "Tensor"
    ref_chosen: "Tensor"
    ref_rejected: "Tensor"

    def margins(self, beta: float) -> "Tensor":
        """β times how much more the model prefers the chosen answers than the reference does (B,)."""
        return beta * ((self.chosen - self.ref_chosen) - (self.rejected - self.ref_rejected))


@dataclass(frozen=True)
class Objective:
    """A mean over pairs, by section `dpo` of the params; and whether it compares with the model as it was given."""

    loss: Callable[[PairLogProbs, Any], "Tensor"]
    uses_reference: bool


def completion(
    hidden: "Tensor", head: "nn.Linear", targets: "Tensor", shifts: "tuple[Tensor, Tensor] | None" = None
) -> "Tensor":
    """Cross-entropy of the tokens `targets` (N,) that follow the states `hidden` (N, H), summed; `head` is frozen.

    With `shifts`, tokens (N, K) and what is added to their logits (N, K), it is the logit-adjusted loss, adjustment.py.
    """
    from stages.model.fused import TargetLoss

    return TargetLoss.apply(hidden.to(head.weight.dtype), head.weight, head.bias, targets, shifts)


def chosen_likelihood(pairs: PairLogProbs, params: Any) -> "Tensor":
    """Negative log-likelihood of the chosen answers alone ("w/o DPO")."""
    return -pairs.chosen.mean()


def preference(pairs: PairLogProbs, params: Any) -> "Tensor":
    """DPO (Rafailov et al. 2023, the paper's Eq. 4), and `nll_weight` times the chosen answers' likelihood with it."""
    from torch.nn.functional import logsigmoid

    loss = -logsigmoid(pairs.margins(params.beta)).mean()
    return loss + params.nll_weight * chosen_likelihood(pairs, params) if params.nll_weight else loss


OBJECTIVES: dict[str, Objective] = {
    "dpo": Objective(preference, uses_reference=True),
    "sft": Objective(chosen_likelihood, uses_reference=False),
}
