"""What `--model` names: a pool of predictors, the model of habits, or a language model; each is a pool of its parts."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from stages.common.checksums import check_folder
from stages.common.errors import UserError
from stages.common.files import read_json
from stages.params import Params
from stages.past import saved
from stages.past.habits import Habits
from stages.serving.habits import PAST

if TYPE_CHECKING:
    from stages.serving.language import LanguageModel

POOL, HABITS, LANGUAGE = "fusion.json", "habits.json", "base.json"
"""The file by which a folder is known."""

_HABITS = "habits"


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
                evaluation can compute.
        """
        beside = model.parent if beside is None else beside
        if (model / POOL).is_file():
            weights = _weights(model)
            folders = {name: beside / (_HABITS if name == PAST else name) for name in weights}
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
                habits = habits or _habits(folder, vocabulary)
            else:
                from stages.serving.language import LanguageModel  # seconds of PyTorch, which nothing else here needs

                language = LanguageModel(folder, vocabulary, params)
        return cls(weights, habits, language)


def _weights(pool: Path) -> dict[str, float]:
    check_folder(pool)
    weights = read_json(pool / POOL)["weights"]
    used = {name: weight for name, weight in weights.items() if weight > 0} or {_HABITS: 0.0}
    if unknown := [name for name in used if name != PAST and "/" in name]:
        raise UserError(f"{pool}: pools {unknown[0]}, of which there are predictions for the evaluation only; set "
                        f"fusion.beside to {PAST} in params.yaml and run `dvc repro fusion`, or take another --model, "
                        "such as models/habits")
    return used


def _habits(folder: Path, vocabulary: pl.DataFrame) -> Habits:
    habits, behaviors = saved.read(folder)
    if behaviors != vocabulary["behavior"].to_list():
        raise UserError(f"{folder}: made with {len(behaviors)} behaviours that are not the vocabulary's "
                        f"{vocabulary.height}, in its order; run `dvc repro habits`, or name its own --vocabulary")
    return habits
