"""Language models that read, in soft tokens, what a SASRec that is fitted knows of behaviours and people."""

from dataclasses import replace
from pathlib import Path

import torch

from stages.baselines.fitting.task import Task
from stages.baselines.language.baseline import LanguageBaseline
from stages.model.soft import attach
from stages.baselines.language.soft_stream import SoftStreamLayout
from stages.baselines.sequential.sasrec import fit_sasrec, item_vectors, load_sasrec, user_vectors


class CollaborativeBaseline(LanguageBaseline):
    """`embedding` says what vectors the soft tokens have; `with_users`, whether people have tokens too.

    Attributes:
        sasrec: that of a folder, or one that is fitted now, as published; frozen, on the CPU.
        items: its vectors `(V + 1, D)` of behaviours.
    """

    with_users: bool
    layout: SoftStreamLayout

    def __init__(self, task: Task, model: Path, sasrec: Path | None):
        if sasrec is None:
            self.sasrec = fit_sasrec(replace(task, context="id"), "bce").model.cpu().requires_grad_(False)
        else:
            self.sasrec = load_sasrec(sasrec, task.sequences)
        super().__init__(task, model)
        self.embedding = attach(self.base, self.tokenizer)
        self.items = item_vectors(self.sasrec).to(self.base.device)
        self._states = self.items[:0]

    def make_layout(self) -> SoftStreamLayout:
        size = self.base.get_input_embeddings().weight.shape[0]
        return SoftStreamLayout(self.tokenizer, self.log, self.params, size, with_users=self.with_users)

    @property
    def states(self) -> torch.Tensor:
        """SASRec's states `(U, D)` of the people in all prompts made so far."""
        if new := self.layout.users[len(self._states) :]:
            more = user_vectors(self.sasrec, self.task.sequences, new)
            self._states = torch.cat([self._states, more.to(self._states.device)])
        return self._states
