"""BERT4Rec (Sun et al. 2019): a bidirectional transformer that guesses masked behaviours, the last one in the end.

Objective as published: full softmax cross-entropy at masked positions, and at no others. The body is the library's
`BertModel`, as in Petrov and Macdonald's replication (2022); the head is BERT's (a layer, GELU, a norm) in front of
inner products with the behaviours' vectors, which leave out the numbers for padding and masks.

A sequence is the T events of history and the target. Three things follow the replications and not the publication:
half of the sequences mask their last event and nothing else, since that is what prediction asks; what is masked is
always hidden, never left or swapped for another; and each sequence is masked anew several times an epoch (the
authors' code makes ten copies), since one masking learns a few of its labels, and under-training is what made
published results of this baseline differ (Petrov and Macdonald). Labels are those that every other baseline learns: an
event that is no training target is never masked.

Context modes: `id` has no times or places. `history` has those of every event that is not masked: a masked event's
own would be the next event's context. `next` has the masked event's own too.

A fit that answers every validation window alike, as this baseline does in the table that this project
reproduces, is refused.
"""

from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel

from stages.baselines.fitting.sequences import NO_LABEL, Batch, Sequences
from stages.baselines.fitting.settings import Context, Counts, Transformer, Tried
from stages.baselines.fitting.task import Task
from stages.baselines.sequential.embedder import Embedder
from stages.baselines.sequential.stage import sequential, tuned
from stages.baselines.sequential.training import Fitted, Recommender, predict
from stages.common.errors import UserError

_LAST_ALONE = 0.5
"""Share of the sequences that mask their last event and nothing else."""
_LEAST_ENTROPY = 0.02
"""Of what is predicted, against that of the labels: about one window in a hundred is answered otherwise."""


class Collapsed(UserError):
    """What was fitted answers nearly every window alike."""


class Settings(Transformer):
    masked: Tried[Annotated[float, Field(gt=0, lt=1)]]
    """Share of the events that are masked where not the last alone is."""
    maskings: Counts
    """How often a sequence is masked anew in an epoch."""


class BERT4Rec(Recommender):
    def __init__(self, sequences: Sequences, settings: dict[str, Any], context: Context):
        super().__init__()
        dimensions, self.context = settings["dimensions"], context
        self.masked, self.maskings, self.mask = settings["masked"], settings["maskings"], sequences.size + 2
        # every event has its own time and place, or none has: no event before it could add them
        own: Context = "id" if context == "id" else "history"
        self.embedder = Embedder(sequences.size, sequences.contexts, None, dimensions, own)
        self.body = BertModel(
            BertConfig(
                vocab_size=1, pad_token_id=None, type_vocab_size=1, hidden_size=dimensions,
                num_hidden_layers=settings["blocks"], num_attention_heads=settings["heads"],
                intermediate_size=4 * dimensions, max_position_embeddings=sequences.length + 1,
                hidden_dropout_prob=settings["dropout"], attention_probs_dropout_prob=settings["dropout"],
            ),
            add_pooling_layer=False,
        )
        self.body.set_input_embeddings(None)  # the embedder stands in for it
        self.register_buffer("positions", torch.arange(sequences.length + 1), persistent=False)
        self.head = nn.Sequential(nn.Linear(dimensions, dimensions), nn.GELU(), nn.LayerNorm(dimensions))
        self.bias = nn.Parameter(torch.zeros(sequences.size))

    def forward(self, batch: Batch, masked: torch.Tensor) -> torch.Tensor:
        """Scores `(M, V)` of the M events that are True in `masked` `(B, T + 1)`.

        `batch` holds `(B, T + 1)` events, the target the last of them; behaviours of masked ones are not read.
        """
        bare = self.embedder.behaviors(torch.where(masked, self.mask, batch.behavior))
        vectors = self.embedder.with_contexts(bare, batch)
        if self.context == "history":
            vectors = torch.where(masked[..., None], bare, vectors)
        hidden = self.body(
            inputs_embeds=vectors, attention_mask=(~batch.padding).long(),
            position_ids=self.positions[None, -masked.shape[1] :],
        ).last_hidden_state
        return self.embedder.scores(self.head(hidden[masked])) + self.bias

    def loss(self, batch: Batch, generator: torch.Generator) -> torch.Tensor:
        batch, times = with_target(batch), self.maskings
        batch = replace(batch.by_position(lambda field: field.repeat(times, 1)), user=batch.user.repeat(times))
        masked = draw_mask(batch.label.cpu(), self.masked, generator).to(batch.label.device)
        return F.cross_entropy(self(batch, masked), batch.label[masked])

    def log_p(self, batch: Batch) -> torch.Tensor:
        batch = with_target(batch)
        masked = torch.zeros_like(batch.padding)
        masked[:, -1] = True
        return self(batch, masked).log_softmax(dim=-1)


def with_target(batch: Batch) -> Batch:
    """`batch` `(B, T)` as `(B, T + 1)` events, the one to predict the last; `label` is now an event's own behaviour.

    The last event's behaviour is its label, where that is known: whoever predicts must mask it. `next_…` only repeat
    an event's own time and place.
    """
    own = {name: torch.cat([getattr(batch, name), getattr(batch, f"next_{name}")[:, -1:]], dim=1)
           for name in ("weekday", "hour", "place")}
    return Batch(
        behavior=torch.cat([batch.behavior, batch.label[:, -1:].clamp(min=0)], dim=1),
        label=F.pad(batch.label, (1, 0), value=NO_LABEL), user=batch.user, **own,
        **{f"next_{name}": own[name] for name in own},
    )


def draw_mask(label: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
    """Which events of `label` `(B, T + 1)` to mask: the last alone, or each labelled one with probability `share`.

    The last as well where nothing was drawn, so that every sequence teaches something; the last has a label always.
    """
    drawn = (torch.rand(label.shape, generator=generator) < share) & (label != NO_LABEL)
    alone = torch.rand(len(label), generator=generator) < _LAST_ALONE
    last = torch.zeros_like(drawn)
    last[:, -1] = True
    return torch.where((alone | ~drawn.any(dim=1))[:, None], last, drawn)


def refuse_constant(title: str, predicted: np.ndarray, label: np.ndarray, names: list[str]) -> None:
    """Stop where the likeliest behaviours `(N,)` are nearly all one although labels `(N,)` differ.

    Raises:
        Collapsed: the entropy of the predicted behaviours is below 2 % of that of the true ones.
    """
    if _entropy(predicted) < _LEAST_ENTROPY * _entropy(label):
        number, count = max(zip(*np.unique(predicted, return_counts=True), strict=True), key=lambda pair: pair[1])
        raise Collapsed(
            f"{title}: collapsed: it answers {names[number]!r} in {count} of {len(predicted)} validation windows, and "
            f"{np.mean(label == number):.0%} of them are that; a lower learning_rate, a longer warmup or more epochs "
            "in stages/baselines/params.yaml may cure it"
        )


def fit_bert4rec(task: Task) -> Fitted[BERT4Rec]:
    """BERT4Rec on the task's training windows, tuned within its budget.

    Raises:
        Collapsed: the best fit is a constant.
    """
    sequences, title = task.sequences, f"BERT4Rec ({task.context})"
    found = tuned(task, "bert4rec", Settings, title, lambda settings: BERT4Rec(sequences, settings, task.context))
    rows = sequences.valid_rows(task.settings("bert4rec", Settings)[0].valid_windows, task.seed)
    rows, label = sequences.known(rows)
    refuse_constant(title, predict(found.model, sequences, rows).argmax(axis=1), label, sequences.names)
    return found


def _entropy(numbers: np.ndarray) -> float:
    share = np.unique(numbers, return_counts=True)[1] / len(numbers)
    return float(-(share * np.log(share)).sum())


STAGE = sequential("bert4rec", __doc__, fit_bert4rec, histories=True)

if __name__ == "__main__":
    STAGE.run()
