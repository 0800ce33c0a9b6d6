"""Which model to take, and how sure that is: chosen on validation windows, compared on test windows of this run."""

from dataclasses import dataclass, field

from stages.reports.differences import DECISIONS, Difference, Option, differences
from stages.reports.inputs import BASELINES, COUNTING, MODELS, Inputs
from stages.studies.definitions import LANGUAGE_MODELS

_ROLES = {"counting": COUNTING, "no language model": ("habits",), "a language model alone": LANGUAGE_MODELS,
          "no tuning": ("base",)}


@dataclass(frozen=True)
class Comparison:
    """The chosen option less another, by metric; `found` is empty without predictions.

    Attributes:
        roles: why it is compared: `the next best`, or the best of `_ROLES` where the chosen one is none of them.
    """

    other: Option
    roles: list[str]
    found: dict[str, Difference]


@dataclass(frozen=True)
class Verdict:
    """What this run says, of its own models and baselines only.

    Attributes:
        chosen: the model that is best by mean accuracy over behaviours on validation windows; None where fewer than
            two models have that score.
        natural: the one that is best by accuracy on the natural validation windows.
        against: others, each under the decision that is better on validation windows.
        missing: models that have not been evaluated.
    """

    chosen: Option | None
    natural: Option | None
    against: list[Comparison] = field(default_factory=list)
    missing: tuple[str, ...] = ()

    @property
    def beaten_by(self) -> Option | None:
        """Counting, where it is shown to be ahead of the best model."""
        return next((each.other for each in self.against if "counting" in each.roles
                     and "balanced.overall" in each.found and each.found["balanced.overall"].sign == -1), None)


def answer(inputs: Inputs) -> Verdict:
    """The verdict; the oracle, which nobody can take, has no part in it."""
    scores = {(row, decision): found for row in (*BASELINES, *MODELS) if row in inputs.metrics for decision in DECISIONS
              if (found := inputs.metrics[row]["valid"].get(decision, {})).get("overall") is not None}

    def rank(option: Option) -> tuple[float, float, bool]:
        """By overall, then by natural accuracy, then plain before adjusted; what differs by rounding is equal."""
        of = scores[option]
        return round(of["overall"], 6), round(of.get("rec_w") or 0, 6), option[1] == "plain"

    best = {row: max((option for option in scores if option[0] == row), key=rank) for row, _ in scores}
    missing = tuple(model for model in MODELS if model not in inputs.metrics)
    models = [option for option in scores if option[0] in MODELS]
    if len({row for row, _ in models}) < 2:
        return Verdict(None, None, missing=missing)
    chosen = max(models, key=rank)
    others = {row: option for row, option in best.items() if row != chosen[0]}
    roles = {max(others.values(), key=rank): ["the next best"]}
    for role, rows in _ROLES.items():
        if chosen[0] not in rows and (alike := [others[row] for row in rows if row in others]):
            roles.setdefault(max(alike, key=rank), []).append(role)
    found = differences(inputs, [(chosen, other) for other in roles])
    against = [Comparison(other, given, found.get((chosen, other), {})) for other, given in roles.items()]
    return Verdict(chosen, max(models, key=lambda option: scores[option].get("rec_w") or 0), against, missing)
