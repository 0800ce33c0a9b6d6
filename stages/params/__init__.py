"""All of `params.yaml`, put together from the rooms that own its sections, for commands and studies.

No stage imports this: a new key of one stage must not make another run again.
"""

from pathlib import Path

from stages.common.params import PARAMS, Seed, checked, read_sections
from stages.events.settings import Ingest, Simulator, Source
from stages.metrics.settings import Evaluate
from stages.model.settings import Lora, Model
from stages.pairs.rules import Selection
from stages.past.settings import Fusion, Habits
from stages.prompts.settings import Auxiliary, Instructions, PromptParams
from stages.training.settings import Dpo, Sft
from stages.windows.settings import Predictions, Scoring


class Params(PromptParams):
    seed: Seed
    source: Source
    simulator: Simulator
    ingest: Ingest
    model: Model
    auxiliary: Auxiliary
    instructions: Instructions
    lora: Lora
    sft: Sft
    scoring: Scoring
    selection: Selection
    dpo: Dpo
    predictions: Predictions
    habits: Habits
    fusion: Fusion
    evaluate: Evaluate


def read_all(path: Path = PARAMS) -> Params:
    """Read and check every section: a typing error shows before any work.

    Raises:
        UserError: as `read_params`; a key at the top is unknown, too.
    """
    return checked(read_sections(path), Params, path)
