"""What `--model` names: a pool of predictors, the model of habits, or a language model; each is a pool of its parts."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from stages.common.checksums import SUMS, check_folder
from stages.common.errors import UserError
from stages.common.files import read_json, sha256
from stages.params import Params
from stages.past import saved
from stages.past.habits import Habits
from stages.past.parts import HABITS as _HABITS
from stages.past.parts import PAST, folder_of
from stages.past.pool import FORMAT

if TYPE_CHECKING:
    from stages.serving.language import LanguageModel

POOL, HABITS, LANGUAGE = "fusion.json", "habits.json", "base.json"
"""The file by which a folder is known."""


@dataclass(frozen=True)
class Parts:
    """Predictors, and the weight of each in their pool; those without weight are not loaded.

    Attributes:
        weights: above 0, by the name of what predicts: "habits", `PAST`, or a language model's.
        habits: predicts as "habits" and as `PAST`, which is counted on the same chain.
        language: the one language model.
    """

    weights: dict[str, float]
    habits: Habits | None
    language: "LanguageModel | None"

    @property
    def spoken(self) -> str:
        """The language model's name among the weights."""
        return next(name for name in self.weights if name not in (_HABITS, PAST))

    @property
    def alone(self) -> bool:
        """Whether the language model's own distribution is the answer."""
        return self.language is not None and list(self.weights.values()) == [1]

    @classmethod
    def load(cls, model: Path, vocabulary: pl.DataFrame, params: Params, beside: Path | None = None) -> "Parts":
        """What the folder `model` holds.

        Args:
            vocabulary: the candidates.
            params: what the language model's prompts are made by.
            beside: where the folders stand that a pool names; where `model` itself stands if None.

        Raises:
            UserError: there is no such model, or it is of another vocabulary; a pool has a part that only the
                evaluation can compute, or one that is not the model that it was fitted on.
        """
        beside = model.parent if beside is None else beside
        digests: dict[str, str] = {}
        if (model / POOL).is_file():
            weights, digests = _read_pool(model)
            folders = {name: beside / (folder_of(name) or name) for name in weights}
        elif (model / HABITS).is_file():
            weights, folders = {_HABITS: 1.0}, {_HABITS: model}
        elif (model / LANGUAGE).is_file():
            weights, folders = {"language": 1.0}, {"language": model}
        else:
            raise UserError(f"{model}: no {POOL}, {HABITS} or {LANGUAGE}: no model; `dvc repro` makes those of "
                            "dvc.yaml, `dvc pull` fetches them, and --model names another")
        habits = language = None
        for name, folder in folders.items():
            if name in (_HABITS, PAST):
                habits = habits or saved.read_for(vocabulary, folder)
            else:
                from stages.serving.language import LanguageModel  # seconds of PyTorch, which nothing else here needs

                language = LanguageModel(folder, vocabulary, params)
            # both have compared the folder's files with its checksums
            if digests and sha256(folder / SUMS) != digests.get(folder.name):
                raise UserError(f"{folder}: not the model that {model} was fitted on (sha256 of {SUMS}), so that its "
                                "weight may not suit; run `dvc repro fusion`, or take this model alone with --model")
        return cls(weights, habits, language)


def _read_pool(pool: Path) -> tuple[dict[str, float], dict[str, str]]:
    """Weights above 0, and by what the models behind them are known again."""
    check_folder(pool)
    content = read_json(pool / POOL)
    if content.get("format") != FORMAT:
        raise UserError(f"{pool / POOL}: made by another version of the pool; `dvc repro fusion` makes it anew")
    weights = content["weights"]
    used = {name: weight for name, weight in weights.items() if weight > 0} or {_HABITS: 0.0}
    if unknown := [name for name in used if name != PAST and "/" in name]:
        raise UserError(f"{pool}: pools {unknown[0]}, of which there are predictions for the evaluation only; set "
                        f"fusion.beside to {PAST} in params.yaml and run `dvc repro fusion`, or take another --model, "
                        "such as models/habits")
    return used, content["models"]
