"""What a SASRec that is fitted already knows of behaviours and people, for language models that are told it."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from stages.baselines.fitting.command import Task
from stages.baselines.language.rows import LanguageRow
from stages.baselines.language.soft import attach
from stages.baselines.language.soft_stream import SoftStreamLayout
from stages.baselines.sequential.sequences import Sequences
from stages.baselines.systems.sasrec import SASRec
from stages.common.errors import UserError
from stages.common.files import read_json

_USERS_AT_ONCE = 1024


class CollaborativeRow(LanguageRow):
    """A row that reads soft tokens in its prompts, for what a SASRec knows; `embedding` says what their vectors are.

    Subclasses say by `with_users` whether people have tokens too.
    """

    with_users: bool
    layout: SoftStreamLayout

    def __init__(self, task: Task, folder: Path):
        super().__init__(task, folder)
        self.embedding = attach(self.base, self.tokenizer)

    def make_layout(self) -> SoftStreamLayout:
        size = self.base.get_input_embeddings().weight.shape[0]
        return SoftStreamLayout(self.tokenizer, self.log, self.params, size, with_users=self.with_users)


def add_sasrec(parser: argparse.ArgumentParser) -> None:
    """The option --sasrec, which `load_sasrec` reads."""
    parser.add_argument("--sasrec", type=Path, required=True,
                        help="folder of a SASRec's weights (python -m stages.baselines.systems.sasrec --weights)")


def load_sasrec(folder: Path, sequences: Sequences) -> SASRec:
    """The SASRec that `python -m stages.baselines.systems.sasrec --weights` wrote, frozen; its context mode is in its weights.

    Raises:
        UserError: the folder does not hold one, or one of another log.
    """
    try:
        state, settings = load_file(folder / "model.safetensors"), read_json(folder / "settings.json")
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"--sasrec: {folder}: no SASRec ({error}); fit one with "
                        "`python -m stages.baselines.systems.sasrec --weights`") from None
    told = {name.split(".")[1] for name in state}
    context = "next" if "later" in told else "history" if "now" in told else "id"
    try:
        model = SASRec(sequences, settings, context, "ce")
        model.load_state_dict(state)
    except (KeyError, RuntimeError) as error:
        raise UserError(f"--sasrec: {folder}: a SASRec of another log, vocabulary or history ({error})") from None
    return model.eval().requires_grad_(False)


def item_vectors(model: SASRec) -> torch.Tensor:
    """Its input vectors `(V + 1, D)` of the behaviours, and of all others together."""
    return model.embedder.behaviors.weight[: model.embedder.size + 1].detach()


@torch.no_grad()  # and not inference mode: a projector is trained on them
def user_vectors(model: SASRec, sequences: Sequences, users: Sequence[tuple[int, int]]) -> torch.Tensor:
    """Its last hidden states `(U, D)` before event `row`, of the events `first` and later, for each pair of `users`.

    Of the last T at most, as it was trained; of none for a person of whom nothing is told.
    """
    parts = [torch.empty(0, model.embedder.behaviors.embedding_dim)]
    for start in range(0, len(users), _USERS_AT_ONCE):
        first, row = np.array(users[start : start + _USERS_AT_ONCE]).T
        batch = sequences.windows(row)
        at = row[:, None] - np.arange(sequences.length, 0, -1)
        untold = torch.from_numpy(at < first[:, None])
        batch = replace(batch, weekday=batch.weekday.masked_fill(untold, sequences.contexts[0] - 1))  # reads as padding
        parts.append(model.encoder(model.embedder(batch), batch.padding)[:, -1])
    return torch.cat(parts)
