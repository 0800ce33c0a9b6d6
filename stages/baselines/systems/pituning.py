"""PITuning (re-derived) (Gong et al. 2024): a pretrained causal body, intents that attend to its events, unlearning.

No code is public. From the published figure and abstract: vectors of time, place and event go through pretrained
blocks; an attention network of learned intents reads their outputs; events are masked and reconstructed meanwhile;
intents that are predicted too often are unlearned. Behaviours serve as events and as intents. All formulas are this
project's:

    a_ij = w . PReLU(W [q_i; q_i * h_j; h_j])
    c_i = sum_j softmax_j(a_ij + d_(t-j)) h_j
    score_i = u . [c_i; q_i * c_i; q_i]

with intents q, outputs h_j of the events up to t, and * elementwise. Without q_i * c_i a history of one event, whose
c_i is h_1 for every intent, would rank all intents alike; without d, learned for each distance, the sum would not know
the latest event from the others, since one pass learns at every position. Loss: cross-entropy at every position, and
half that of reconstructing masked events from what came before them and, where the mode has any, their own time
and place. The body stays causal for that, and it is a second pass, so that prediction never reads a masked history.

Body: the first blocks of the project's base language model (published: GPT-2-small), all trained, at a rate of their
own; `pretrained: [false]` gives it random weights, the published ablation. Linear maps join the widths; inputs are
brought to the size of the body's own token vectors. Context modes as the embedder has them.

Objectives: `population` is the published first stage. `unlearned` goes on with a bounded unlearning of this
project's: the published one adapts to single users, and users who are tested are nobody's in training. For that
reason the stage of one user each, and the distillation before it, are not there at all. No published figure can be
met: one of the logs is private, the other was never published with the code's repository.
"""

import copy
import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel, PreTrainedModel

from stages.baselines.fitting.sequences import NO_LABEL, Batch, Sequences
from stages.baselines.fitting.settings import Context, Counts, Rates, Trained, Tried
from stages.baselines.fitting.stage import MODEL
from stages.baselines.fitting.task import Task
from stages.baselines.sequential.embedder import Embedder
from stages.baselines.sequential.objectives import cross_entropy
from stages.baselines.sequential.stage import sequential, tuned
from stages.baselines.sequential.training import Fitted, Recommender, mean_reciprocal_rank, predict
from stages.common.device import device
from stages.common.errors import UserError
from stages.common.params import Positive, Rate, Share
from stages.model.load import compute_dtype, load_base

Objective = Literal["population", "unlearned"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)

_VALIDATIONS = 10
"""While unlearning."""
_NUMBERS_AT_ONCE = 2**25
"""Outputs of W in memory at a time while predicting, which take about 12 bytes each at their peak."""


class Settings(Trained):
    dimensions: Counts
    attention: Counts
    """Outputs of W."""
    blocks: Counts
    pretrained: Tried[bool]
    body_learning_rate: Rates
    masked: Tried[Annotated[float, Field(gt=0, lt=1)]]
    reconstruction: Tried[Annotated[float, Field(ge=0)]]
    """Weight of the reconstruction's loss."""
    forget_above: Share
    """How much more often than it happens a behaviour must be predicted to be forgotten, as a share of all windows."""
    forget_until: Annotated[float, Field(gt=0)]
    """Nats of surprise at which a prediction counts as forgotten."""
    forget_steps: Positive
    forget_rate: Rate
    forget_tolerance: Share
    """Mean reciprocal rank on validation that unlearning may cost."""


class IntentAttention(nn.Module):
    """One learned intent for each behaviour, which reads the events up to a position and scores what follows."""

    def __init__(self, size: int, dimensions: int, attention: int, length: int):
        super().__init__()
        self.intents = nn.Embedding(size, dimensions)
        self.unit = nn.Linear(3 * dimensions, attention)
        self.activation = nn.PReLU()
        self.energy = nn.Linear(attention, 1, bias=False)
        self.distance = nn.Parameter(torch.zeros(length))
        self.score = nn.Linear(3 * dimensions, 1, bias=False)
        nn.init.normal_(self.intents.weight, std=dimensions**-0.5)
        nn.init.ones_(self.score.weight[:, dimensions : 2 * dimensions])  # begins as an inner product

    def forward(self, hidden: torch.Tensor, padding: torch.Tensor, latest: int) -> torch.Tensor:
        """Scores `(B, latest, V)` of what follows each of the last `latest` of the events `hidden` `(B, T, D)`."""
        intents = self.intents.weight
        own, product, past = self.unit.weight.chunk(3, dim=1)
        inner = (hidden @ (product * intents[:, None]).flatten(0, 1).T).unflatten(2, (len(intents), -1))  # (B, T, V, A)
        inner = inner + (hidden @ past.T)[:, :, None] + intents @ own.T + self.unit.bias
        energy = self.energy(self.activation(inner)).squeeze(-1).transpose(1, 2)[:, None]  # (B, 1, V, T)

        position = torch.arange(hidden.shape[1], device=hidden.device)
        ago = (position[:, None] - position)[-latest:]  # (latest, T)
        seen = (ago >= 0) & (~padding[:, None] | (ago == 0))  # padding sees itself: a softmax needs something
        energy = energy + self.distance[ago.clamp(min=0)][None, :, None]
        weight = energy.masked_fill(~seen[:, :, None], float("-inf")).softmax(dim=-1)  # (B, latest, V, T)

        # u . [c_i; q_i * c_i; q_i] is a sum over events: the contexts c `(B, latest, V, D)` themselves are never made
        context, both, alone = self.score.weight[0].chunk(3)
        values = hidden @ (context + both * intents).T  # (B, T, V)
        return torch.einsum("bsvt,btv->bsv", weight, values) + intents @ alone


class PITuning(Recommender):
    def __init__(self, sequences: Sequences, settings: dict[str, Any], context: Context, base: PreTrainedModel):
        super().__init__()
        dimensions, size = settings["dimensions"], sequences.size
        self.size, self.masked, self.reconstruction = size, settings["masked"], settings["reconstruction"]
        self.embedder = Embedder(size, sequences.contexts, None, dimensions, context)
        self.body = first_blocks(base, settings["blocks"], settings["pretrained"])
        width = self.body.config.hidden_size
        self.widen, self.narrow = (
            nn.Linear(*widths) if dimensions != width else nn.Identity()
            for widths in ((dimensions, width), (width, dimensions))
        )
        self.into = nn.RMSNorm(width, eps=1e-6)
        tokens = base.get_input_embeddings().weight
        nn.init.constant_(self.into.weight, tokens.detach().float().square().mean().sqrt().item())
        self.dropout, self.norm = nn.Dropout(settings["dropout"]), nn.LayerNorm(dimensions)
        self.intents = IntentAttention(size, dimensions, settings["attention"], sequences.length)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Scores `(B, T, V)` of what follows each event."""
        return self.intents(self.encode(batch), batch.padding, latest=batch.label.shape[1])

    def encode(self, batch: Batch) -> torch.Tensor:
        """The body's outputs `(B, T, D)` float32; each depends on its event and those before."""
        there = (~batch.padding).long()
        with torch.autocast(there.device.type, torch.bfloat16, enabled=compute_dtype() == torch.bfloat16):
            vectors = self.into(self.widen(self.dropout(self.embedder(batch))).float())
            hidden = self.narrow(self.body(
                inputs_embeds=vectors, attention_mask=there, position_ids=(there.cumsum(dim=1) - 1).clamp(min=0),
            ).last_hidden_state)
        return self.dropout(self.norm(hidden.float()))

    def reconstruct(self, batch: Batch, masked: torch.Tensor) -> torch.Tensor:
        """Scores `(M, V)` of the M events that are True in `masked` `(B, T)`, whose behaviours are not read."""
        hidden = self.encode(replace(batch, behavior=torch.where(masked, self.size + 2, batch.behavior)))
        return self.embedder.scores(hidden[masked])

    def loss(self, batch: Batch, generator: torch.Generator) -> torch.Tensor:
        loss = cross_entropy(self(batch), batch.label)
        masked = draw_events(batch, self.masked, generator)
        if not self.reconstruction or not masked.any():
            return loss
        return loss + self.reconstruction * F.cross_entropy(self.reconstruct(batch, masked), own_labels(batch)[masked])

    def log_p(self, batch: Batch) -> torch.Tensor:
        hidden = self.encode(batch)
        windows = max(1, _NUMBERS_AT_ONCE // (hidden.shape[1] * self.intents.unit.out_features * self.size))
        parts = zip(hidden.split(windows), batch.padding.split(windows), strict=True)
        return torch.cat([self.intents(*part, latest=1)[:, 0] for part in parts]).log_softmax(dim=-1)

    def parameter_groups(self, settings: dict[str, Any]) -> list[dict[str, Any]]:
        body = set(self.body.parameters())
        return [
            {"params": [parameter for parameter in self.parameters() if parameter not in body]},
            {"params": list(self.body.parameters()), "lr": settings["body_learning_rate"]},
        ]


def first_blocks(base: PreTrainedModel, blocks: int, pretrained: bool) -> PreTrainedModel:
    """The first blocks of a language model, without its token vectors, in float32; with its weights or random ones.

    Raises:
        UserError: the model has fewer blocks.
    """
    config = copy.deepcopy(base.config)
    if blocks > config.num_hidden_layers:
        raise UserError(f"stages/baselines/params.yaml: pituning.blocks: {blocks}: the base model has "
                        f"{config.num_hidden_layers}; at most that many")
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:blocks]
    config.num_hidden_layers, config.vocab_size, config.pad_token_id, config.use_cache = blocks, 1, None, False
    body = AutoModel.from_config(config, dtype=torch.float32, attn_implementation="sdpa", trust_remote_code=False)
    body.set_input_embeddings(None)  # the embedder stands in for it
    if pretrained:
        weights = base.base_model.state_dict()
        body.load_state_dict({name: weights[name].float() for name in body.state_dict()})
    return body


def own_labels(batch: Batch) -> torch.Tensor:
    """`(B, T)`: each event's own behaviour where it is a training label of this batch, else `NO_LABEL`."""
    return F.pad(batch.label[:, :-1], (1, 0), value=NO_LABEL)


def draw_events(batch: Batch, share: float, generator: torch.Generator) -> torch.Tensor:
    """Which events `(B, T)` to mask: each that is a training label, with probability `share`; no other is learned."""
    drawn = torch.rand(batch.label.shape, generator=generator) < share
    return drawn.to(batch.label.device) & (own_labels(batch) != NO_LABEL)


def excess(predicted: np.ndarray, label: np.ndarray, size: int) -> np.ndarray:
    """`(V,)`: how much more often each behaviour is predicted than it happens, as shares of all `(N,)` windows."""
    return (np.bincount(predicted, minlength=size) - np.bincount(label, minlength=size)) / len(label)


def unlearn(model: PITuning, sequences: Sequences, rows: np.ndarray, values: Settings, batch_size: int, seed: int
            ) -> dict[str, Any]:
    """Lower the predictions of behaviours that are predicted too often; the model keeps its last good weights.

    Forgotten are training predictions of such a behaviour that are wrong: the loss is minus their cross-entropy, each
    bounded by `forget_until`, plus the cross-entropy of the labels at all other positions. What is predicted too often
    and when to stop is read from validation windows, whose targets are `rows`: after every tenth of the steps. It stops
    before the mean reciprocal rank has fallen by more than `forget_tolerance`, and when nothing is predicted too often.
    """
    rows, label = sequences.known(rows)

    def validate() -> tuple[float, np.ndarray]:
        log_p = predict(model, sequences, rows)
        return mean_reciprocal_rank(log_p, label), excess(log_p.argmax(axis=1), label, sequences.size)

    def batches() -> Iterator[Batch]:
        while True:
            yield from sequences.epoch(batch_size, rng)

    rng, steps = np.random.default_rng(seed), values.forget_steps
    before, over = validate()
    forget = np.flatnonzero(over > values.forget_above)
    optimizer = torch.optim.AdamW(model.parameters(), lr=values.forget_rate, weight_decay=0.0)
    after, over_after, kept, weights = before, over, 0, copy.deepcopy(model.state_dict())
    for step, batch in enumerate(itertools.islice(batches(), steps if len(forget) else 0), start=1):
        model.train()
        loss = unlearning_loss(model(batch.to(device())), batch.label.to(device()), forget, values.forget_until)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if step % max(1, steps // _VALIDATIONS) and step < steps:
            continue
        score, now = validate()
        if not score >= before - values.forget_tolerance:  # nor where it is not a number
            break
        after, over_after, kept, weights = score, now, step, copy.deepcopy(model.state_dict())
        if not (now[forget] > values.forget_above).any():
            break
    model.load_state_dict(weights)
    model.eval()
    return {
        "forgotten": "; ".join(sequences.names[number] for number in forget), "forget_steps_kept": kept,
        "excess_before": float(over[forget].sum()), "excess_after": float(over_after[forget].sum()),
        "score_before": before, "score_after": after,
    }


def unlearning_loss(scores: torch.Tensor, label: torch.Tensor, forget: np.ndarray, until: float) -> torch.Tensor:
    """Cross-entropy of labels, less that of wrong predictions of the behaviours `forget` where it is below `until`.

    `scores` are `(…, V)`, `label` `(…)`, counted where not `NO_LABEL`.
    """
    known = label != NO_LABEL
    log_p, label = scores[known].log_softmax(dim=-1), label[known]
    predicted = log_p.argmax(dim=-1)
    wrong = torch.isin(predicted, torch.from_numpy(forget).to(label.device)) & (predicted != label)
    retained = F.nll_loss(log_p[~wrong], label[~wrong], reduction="sum")
    forgotten = F.nll_loss(log_p[wrong], predicted[wrong], reduction="none").clamp(max=until).sum()
    return (retained - forgotten) / len(label)


def fit_pituning(task: Task, model: Path, objective: Objective) -> Fitted[PITuning]:
    """PITuning on the task's training windows and the base language model in the folder `model`."""
    base = load_base(model, torch.float32)
    found = tuned(task, "pituning", Settings, f"PITuning, re-derived ({objective}, {task.context})",
                  lambda settings: PITuning(task.sequences, settings, task.context, base))
    if objective == "population":
        return found
    budget, values = task.settings("pituning", Settings)
    rows = task.sequences.valid_rows(budget.valid_windows, task.seed)
    unlearning = unlearn(found.model, task.sequences, rows, values, found.settings["batch_size"], task.seed)
    return replace(found, score=unlearning["score_after"], facts={"unlearning": unlearning})


STAGE = sequential("pituning", __doc__, fit_pituning, reads=MODEL, objectives=OBJECTIVES)

if __name__ == "__main__":
    STAGE.run()
