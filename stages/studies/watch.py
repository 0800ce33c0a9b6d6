"""What an experiment's output tells of its stages: which one runs, and how long the others took."""

import re
import time

from stages.studies.durations import Durations
from stages.studies.plan import Experiment

# DVC writes "Running stage 'x':", or "Stage 'x' is cached - skipping run" and "Stage 'x' didn't change, skipping"
_STAGE = re.compile(r"^(Running stage|Stage) '([^']+)'", re.MULTILINE)


class StageWatch:
    """Learns from an experiment's output how long each of the stages takes that it runs, not those that it skips.

    Attributes:
        stage: the one that was begun last; empty before the first.
    """

    def __init__(self, experiment: Experiment, durations: Durations, under_way: bool = False):
        """`under_way`: the experiment runs already, so that nobody saw its present stage begin."""
        self.experiment, self.durations = experiment, durations
        self.stage = ""
        self._seen, self._since = 0, None
        self._under_way = under_way

    def look(self, output: str) -> None:
        """Read all that has been printed so far."""
        begun = _STAGE.findall(output)
        under_way, self._under_way = self._under_way, False
        if len(begun) <= self._seen:
            return
        self.close()
        # several since the last look: only the last one's beginning is known
        self._seen, (kind, self.stage) = len(begun), begun[-1]
        if kind == "Running stage" and not under_way:
            self._since = time.monotonic()

    def close(self) -> None:
        """The stage that was seen last has ended."""
        if self._since is not None:
            seconds, made = time.monotonic() - self._since, self.experiment
            self.durations.add(self.stage, made.params, seconds, made.keys.get(self.stage), made.trials)
        self._since = None
