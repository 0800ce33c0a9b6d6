"""Language models that read, in soft tokens, what a SASRec that is fitted knows of behaviours and people."""

from pathlib import Path

import torch

from stages.baselines.fitting.task import Task
from stages.baselines.language.baseline import LanguageBaseline
from stages.baselines.language.soft import attach
from stages.baselines.language.soft_stream import SoftStreamLayout
from stages.baselines.sequential.sasrec import SASRec, item_vectors, load_sasrec, user_vectors


class CollaborativeBaseline(LanguageBaseline):
    """`embedding` says what vectors the soft tokens have; `with_users`, whether people have tokens too.

    Attributes:
        sasrec: frozen, on the CPU.
        items: its vectors `(V + 1, D)` of behaviours.
    """

    with_users: bool
    layout: SoftStreamLayout

    def __init__(self, task: Task, model: Path, sasrec: Path | None):
        self.sasrec = self.recommender(task, sasrec)
        super().__init__(task, model)
        self.embedding = attach(self.base, self.tokenizer)
        self.items = item_vectors(self.sasrec).to(self.base.device)
        self._states = self.items[:0]

    def recommender(self, task: Task, folder: Path | None) -> SASRec:
        return load_sasrec(folder, task.sequences)

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
