"""An API model on a small log."""

import json
from dataclasses import dataclass

import numpy as np

from stages.baselines.api.__main__ import Settings, predictions
from stages.baselines.api.cache import Cache
from stages.baselines.api.questions import Questions
from stages.baselines.fitting.task import Task
from stages.prompts.log import EventLog
from stages.windows.tested import tested as every_window
from tests.baselines.api.server import named
from tests.small_log import BEHAVIORS

KEY = "sk-test-4f1d0c"
PSEUDONYM = 7_301_224_918_550_000_000
SPLIT_OF_USER = ("train", "train", "valid", "valid", "natural", "balanced")
SETTINGS = Settings(model="some-model-2024-08-06", answer="schema", mass=0.5, max_tokens_total=10_000_000, natural=None,
                    per_behavior=None, parallel=1, attempts=3, timeout=5)
ANY = named(BEHAVIORS[0])


@dataclass
class Case:
    """A task of few windows, with everything that is known of it."""

    task: Task
    cache: Cache

    def run(self, **changes):
        return predictions(self.task, SETTINGS.model_copy(update=changes), self.cache)

    @property
    def wanted(self):
        task = self.task
        return every_window(task.events, task.windows, task.params.predictions, task.params.data_seed)

    def questions(self, form="schema"):
        log = EventLog.from_tables(self.task.events, self.task.vocabulary)
        return Questions(log, self.task.params, self.task.context, SETTINGS.model, form)

    def truth(self):
        """What happened, by the text of the prompt."""
        questions, wanted = self.questions(), self.wanted
        return {json.dumps(questions.request(row)["messages"]): behavior
                for row, behavior in zip(wanted["row"], wanted["behavior"], strict=True)}

    def numbers(self):
        return np.array([BEHAVIORS.index(name) for name in self.wanted["behavior"]])
