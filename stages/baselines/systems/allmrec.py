"""A-LLMRec (Kim et al. 2024): a frozen language model reads a recommender's vectors of the person and of behaviours.

Kept as published: SASRec trained by binary cross-entropy, with context mode id (stage 0); two autoencoders, of items'
vectors and of their texts', drawn together at their codes while the decoded item still serves the recommender, by the
losses and weights of the published code, ghdtjr/A-LLMRec at commit e216bbc (stage 1); a language model of which nothing
changes and without an adapter, and two projectors of Linear, LayerNorm, LeakyReLU (people) or GELU (behaviours),
Linear, drawn by Xavier's rule, which alone are trained by the cross-entropy of label and terminator (stage 2). A
person's vector is SASRec's last hidden state, a behaviour's its code.

Different, and why: texts are read by the encoder of all baselines that read names (names.py; by default the language
model itself), frozen, as V names would not tune one; a behaviour has a name and no description. A behaviour outside
the vocabulary has a code too, made of the vector that SASRec has for all of these. All V behaviours are candidates.
Prompts are the layout `stream` with soft tokens: every event is a target, so the person's token stands before each
label and knows the events before it that are in the prompt. Negatives are any other behaviour, seen before or not.
Soft vectors begin as long as a token's. The optimizer of the projectors is AdamW, its rate rising and falling. Stage 1
has fewer and larger steps: V items only.

Context mode by --context, of prompts. Checked: every weight of the language model is the same to the bit after
training; gradients reach the projectors alone; a behaviour's two codes come to agree
(tests/baselines/test_allmrec.py).
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from stages.baselines.fitting.task import Task
from stages.baselines.language.baseline import Trained, language
from stages.baselines.language.collaborative import CollaborativeBaseline
from stages.baselines.language.names import load_names
from stages.baselines.language.soft import Projector
from stages.baselines.sequential.sasrec import WEIGHTS, item_vectors, user_vectors
from stages.common.console import track
from stages.common.draws import stream
from stages.common.params import Positive, Rate
from stages.common.stage import Kind, optional

CODE = 128
"""Dimensions of a code."""

_LOSSES = {"recommendation": 1.0, "matching": 1.0, "item": 0.5, "text": 0.2}  # and their weights


class Settings(Trained):
    """Of both stages; stage 1, the matching, is not tuned."""

    matching_learning_rate: Rate
    matching_batch_size: Positive
    matching_epochs: Positive


class Autoencoder(nn.Module):
    """Vectors `(…, D)` to codes `(…, CODE)` between 0 and 1, and back."""

    def __init__(self, dimensions: int):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(dimensions, CODE), nn.Linear(CODE, dimensions)

    def encode(self, vectors: torch.Tensor) -> torch.Tensor:
        return self.encoder(vectors).sigmoid()

    def forward(self, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The codes, and what is decoded from them."""
        codes = self.encode(vectors)
        return codes, self.decoder(codes)


class Codes(nn.Module):
    """Both autoencoders over fixed vectors of V behaviours: the recommender's `(V, D)` and their texts' `(V, E)`."""

    def __init__(self, items: torch.Tensor, texts: torch.Tensor):
        super().__init__()
        self.register_buffer("item_vectors", items)
        self.register_buffer("text_vectors", texts)
        self.items, self.texts = Autoencoder(items.shape[1]), Autoencoder(texts.shape[1])

    def losses(self, users: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor) -> dict[str, torch.Tensor]:
        """Each of `_LOSSES`, a mean over users' states `(B, D)` and behaviours that followed and did not `(B,)`."""
        both = torch.stack([positive, negative])
        code, decoded = self.items(self.item_vectors[both])
        text_code, text_decoded = self.texts(self.text_vectors[both])
        score = (users * decoded).mean(dim=-1)  # a mean, not a sum: published so
        return {
            "recommendation": F.softplus(-score[0]).mean() + F.softplus(score[1]).mean(),
            "matching": 2 * F.mse_loss(code, text_code), "item": 2 * F.mse_loss(decoded, self.item_vectors[both]),
            "text": 2 * F.mse_loss(text_decoded, self.text_vectors[both]),
        }

    @torch.no_grad()
    def agreement(self) -> float:
        """Mean cosine of a behaviour's two codes, each less the mean of all: near 1 from the start else."""
        pair = (self.items.encode(self.item_vectors), self.texts.encode(self.text_vectors))
        return float(F.cosine_similarity(*(codes - codes.mean(dim=0) for codes in pair), dim=-1).mean())


def fit_codes(
    items: torch.Tensor, texts: torch.Tensor, users: torch.Tensor, label: torch.Tensor, settings: Settings, seed: int
) -> Codes:
    """Both autoencoders, trained, then frozen.

    Each time a user is met, another of the V − 1 behaviours that did not follow is drawn as the negative, uniformly
    (`objectives.binary_cross_entropy` says why).

    Args:
        items, texts: see `Codes`.
        users: the recommender's states `(N, D)` before the events whose behaviours are `label` `(N,)`.
    """
    torch.manual_seed(seed)
    codes, generator = Codes(items, texts), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(codes.parameters(), lr=settings.matching_learning_rate, betas=(0.9, 0.98))
    with track("A-LLMRec, codes", settings.matching_epochs) as progress:
        for _ in range(settings.matching_epochs):
            for chosen in torch.randperm(len(label), generator=generator).split(settings.matching_batch_size):
                shift = torch.randint(1, len(items), chosen.shape, generator=generator)
                losses = codes.losses(users[chosen], label[chosen], (label[chosen] + shift) % len(items))
                sum(_LOSSES[name] * loss for name, loss in losses.items()).backward()
                optimizer.step()
                optimizer.zero_grad()
            progress.advance(1, f"agreement {codes.agreement():.3f}")
    return codes.eval().requires_grad_(False)


class Projectors(nn.Module):
    """Soft vectors of behaviours' codes `(V + 1, CODE)` and of people's states `(U, D)`."""

    def __init__(self, codes: torch.Tensor, users: torch.Tensor, hidden: int, length: float):
        super().__init__()
        self.items = Projector(_net(CODE, hidden, nn.GELU()).to(codes.device), codes, length)
        self.users = Projector(_net(users.shape[1], hidden, nn.LeakyReLU()).to(users.device), users, length)

    def forward(self, numbers: torch.Tensor, codes: torch.Tensor, users: torch.Tensor) -> torch.Tensor:
        """Of `numbers` `(K,)`, ascending: below V + 1 a behaviour's, then people's."""
        items = numbers < len(codes)
        return torch.cat([self.items(codes[numbers[items]]), self.users(users[numbers[~items] - len(codes)])])


class ALLMRec(CollaborativeBaseline):
    """`item_codes` are `(V + 1, CODE)`, the last one that of all other behaviours."""

    section, kind, with_users = "allmrec", Settings, True
    values: Settings

    def __init__(self, task: Task, model: Path, sasrec: Path | None):
        self.names = load_names(task, model)
        super().__init__(task, model, sasrec)
        self.codes = self._match()
        self.item_codes = self.codes.items.encode(item_vectors(self.sasrec)).to(self.base.device)

    def build(self, settings: dict[str, Any]) -> None:
        torch.manual_seed(self.params.seed)
        self.model = self.base
        self.projector = Projectors(self.item_codes, self.states, self.base.config.hidden_size,
                                    self.embedding.mean_norm())

    def learn(self, settings: dict[str, Any]) -> dict[str, Any]:
        course, record = self.tune("A-LLMRec", settings, before_validation=self.prepare_vectors)
        return {"names": self.names.facts(), "agreement": self.codes.agreement(), "first_loss": course.first} | record

    def release(self) -> None:
        """Nothing was put on the language model."""

    def prepare_vectors(self) -> None:
        users = self.states
        self.embedding.source = lambda numbers: self.projector(numbers, self.item_codes, users)

    def _match(self) -> Codes:
        """Stage 1, on as many training events as the language model learns from."""
        size = len(self.names.vectors)
        windows = self.task.windows.filter(split="train")["row"].sort().to_numpy()
        known = windows[self.log.behavior[windows] < size]
        rows = stream(self.params.seed, "allmrec events").permutation(known)[: self.params.instructions.train_targets]
        histories = [(self.log.history(row, self.layout.length).start, row) for row in rows.tolist()]
        users = user_vectors(self.sasrec, self.task.sequences, histories)
        label = torch.from_numpy(self.log.behavior[rows].astype(np.int64))
        items, texts = item_vectors(self.sasrec)[:size], torch.from_numpy(self.names.vectors)
        return fit_codes(items, texts, users, label, self.values, self.params.seed)


def _net(size: int, hidden: int, between: nn.Module) -> nn.Sequential:
    net = nn.Sequential(nn.Linear(size, hidden), nn.LayerNorm(hidden), between, nn.Linear(hidden, hidden))
    for layer in (net[0], net[3]):
        nn.init.xavier_normal_(layer.weight)
    return net


SASREC = optional(Kind(f"{WEIGHTS.help}, of --objective bce --context id as published; none: one is fitted"))
STAGE = language("allmrec", __doc__, ALLMRec, {"sasrec": SASREC})

if __name__ == "__main__":
    STAGE.run()
