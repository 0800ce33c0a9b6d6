"""A-LLMRec (Kim et al. 2024): a frozen language model is told a recommender's vectors of the person and of behaviours.

Kept as published: SASRec trained by binary cross-entropy, with context mode id (stage 0); the autoencoders and losses
of allmrec_codes.py (stage 1); a language model of which nothing changes and without an adapter, and two projectors of
Linear, LayerNorm, LeakyReLU (people) or GELU (behaviours), Linear, drawn by Xavier's rule, which alone are trained by
the cross-entropy of label and terminator (stage 2). A person's vector is SASRec's last hidden state, a behaviour's
its code.

Different, and why: texts are read by the encoder of all systems that read names (names.py; by default the language
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

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import polars as pl
import torch
from pydantic import Field
from torch import nn

from stages.baselines.fitting.command import Task
from stages.baselines.fitting.settings import Counts, Rates
from stages.baselines.language.collaborative import CollaborativeRow, item_vectors, load_sasrec, user_vectors
from stages.baselines.language.names import names_of
from stages.baselines.language.rows import run_row
from stages.baselines.language.soft import Projector
from stages.baselines.language.training import Plan, train
from stages.baselines.systems.allmrec_codes import CODE, Codes, Matching, fit_codes
from stages.baselines.systems.sasrec import SASRec, fit_sasrec
from stages.common.errors import run
from stages.common.params import Positive, Share

_STREAM = 8  # tells the draw of stage 1's events from the others of the same seed


class Settings(Matching):
    learning_rate: Rates
    epochs: Counts
    batch_size: Positive
    weight_decay: Annotated[float, Field(ge=0)]
    warmup: Share
    least_rate: Share
    looks: Positive


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


class ALLMRec(CollaborativeRow):
    """What a row of it is made of.

    Attributes:
        names: of the behaviours, as vectors.
        codes: of stage 1.
        item_codes: `(V + 1, CODE)`, the last one that of all other behaviours.
    """

    section, kind, with_users = "allmrec", Settings, True

    def __init__(self, task: Task, folder: Path, sasrec: Path | None):
        self.names, self.sasrec = names_of(task, folder), _sasrec(task, sasrec)
        super().__init__(task, folder)
        self.codes = self._match()
        device = self.base.device
        self.item_codes = self.codes.items.encode(item_vectors(self.sasrec)).to(device)
        self._users = torch.empty(0, self.sasrec.embedder.behaviors.embedding_dim, device=device)
        self._projectors: Projectors | None = None

    @property
    def projector(self) -> Projectors | None:
        return self._projectors

    @property
    def users(self) -> torch.Tensor:
        """SASRec's states `(U, D)` of the people in all prompts made so far."""
        if new := self.layout.users[len(self._users) :]:
            more = user_vectors(self.sasrec, self.task.sequences, new)
            self._users = torch.cat([self._users, more.to(self._users.device)])
        return self._users

    def build(self, settings: dict[str, Any]) -> None:
        torch.manual_seed(self.params.seed)
        self.model = self.base
        hidden = self.base.config.hidden_size
        self._projectors = Projectors(self.item_codes, self.users, hidden, self.embedding.mean_norm())

    def learn(self, settings: dict[str, Any]) -> dict[str, Any]:
        course = train("A-LLMRec", self.model, self.weights(), self.train, self.valid,
                       Plan.of(settings, self.budget.patience), self.params.seed, before_validation=self.tell)
        return {"names": self.names.facts(), "agreement": self.codes.agreement(), "first_loss": course.values[0],
                "loss": course.best, "step": course.best_step, "steps": course.steps}

    def release(self) -> None:
        """Nothing was put on the language model."""

    def tell(self) -> None:
        users, projectors = self.users, self._projectors
        self.embedding.source = lambda numbers: projectors(numbers, self.item_codes, users)

    def _match(self) -> Codes:
        """Stage 1, on as many training events as the language model is told."""
        size = len(self.names.vectors)
        windows = self.task.windows.filter(pl.col("split") == "train")["row"].sort().to_numpy()
        known = windows[self.log.behavior[windows] < size]
        rng = np.random.default_rng([self.params.seed, _STREAM])
        rows = rng.permutation(known)[: self.params.instructions.train_targets]
        told = [(self.log.history(row, self.layout.length).start, row) for row in rows.tolist()]
        users = user_vectors(self.sasrec, self.task.sequences, told)
        label = torch.from_numpy(self.log.behavior[rows].astype(np.int64))
        items, texts = item_vectors(self.sasrec)[:size], torch.from_numpy(self.names.vectors)
        return fit_codes(items, texts, users, label, self.values, self.params.seed)


def _sasrec(task: Task, folder: Path | None) -> SASRec:
    """That of `folder`, or one that is fitted now, as published; on the CPU."""
    if folder is not None:
        return load_sasrec(folder, task.sequences)
    return fit_sasrec(replace(task, context="id"), "bce").model.cpu().requires_grad_(False)


def _net(size: int, hidden: int, between: nn.Module) -> nn.Sequential:
    net = nn.Sequential(nn.Linear(size, hidden), nn.LayerNorm(hidden), between, nn.Linear(hidden, hidden))
    for layer in (net[0], net[3]):
        nn.init.xavier_normal_(layer.weight)
    return net


def main() -> None:
    def options(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--sasrec", type=Path,
                            help="folder of a SASRec's weights (python -m stages.baselines.systems.sasrec --weights), of "
                            "--objective bce --context id as published; none: one is fitted")

    run_row("allmrec", __doc__, lambda task, args: ALLMRec(task, args.model, args.sasrec), options)


if __name__ == "__main__":
    run(main)
