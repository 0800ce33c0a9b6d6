"""`stages/studies/studies.yaml`, read into checked sections: a study is an entry there, not code."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from dvc.exceptions import InvalidArgumentError
from pydantic import Field, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stages.common.errors import UserError
from stages.common.params import Section, checked, read_yaml, suggestion
from stages.hooks.overrides import expand, translate

Overrides = dict[str, Any]
"""Values by keys of params.yaml (`sft.epsilon`) or of baselines (`stages/baselines/params.yaml:budget.trials`)."""

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
LANGUAGE_MODELS = ("base", "sft", "dpo")
MODELS = ("habits", *LANGUAGE_MODELS, "fusion")
"""Those of dvc.yaml that have a table of predictions each, `fusion` being the pool of others."""

REFERENCES = ("majority", "last", "frequent", "markov", "past", "oracle")
"""Baselines of stage `reference`. Every other model is `evaluate@<name>` of stages/baselines/dvc.yaml."""


def predictions_file(model: str) -> str:
    """Where a model's table `predictions` lies in the folder data."""
    folder = "" if model in MODELS else "reference/" if model in (*REFERENCES, "oracle_adjusted") else "baselines/"
    return f"predictions/{folder}{model}.parquet"


class StudyRow(Section):
    """One line of a study's table.

    Attributes:
        label: what people read; the row's name where empty.
        set: params that differ from the setting's.
        model: whose predictions are compared: one of `MODELS`, of `REFERENCES`, or of the baselines' pipeline.
        decision: plain (argmax of p), adjusted (logit adjustment, τ chosen on validation), or textbook (τ = 1).
        alternatives: further settings, each beside `set`: of these and `set` alone validation takes one, for each
            repetition its own. As many in all as a baseline may try (`budget.trials` of stages/baselines/params.yaml).
        paper: the paper's figures by metric, as shares.
        needs: what a machine must have for this row (a model hub, a GPU); such a row runs only when asked for by name.
    """

    label: str = ""
    set: Overrides = {}
    model: Name = "dpo"
    decision: Literal["plain", "adjusted", "textbook"] = "plain"
    alternatives: list[Overrides] = []
    paper: dict[str, float] = {}
    needs: str = ""

    @model_validator(mode="after")
    def _chosen_by_what_is_measured(self) -> "StudyRow":
        if self.alternatives and (self.model not in MODELS or self.decision == "textbook"):
            raise ValueError(f"alternatives: model {self.model}, decision {self.decision}: validation can choose among "
                             f"the settings of {', '.join(MODELS)}, plain or adjusted, only")
        return self


class Gap(Section):
    """Between two study rows, a baseline and the ceiling, in one metric: the table says how much of it each closes."""

    baseline: Name
    ceiling: Name
    metric: str


class Study(Section):
    """Rows compared with one of them.

    Attributes:
        title: one line; what the table is of.
        question: what the study answers.
        set: params of all rows, below each row's own.
        repeat: the key that repetitions differ in: `seed`, or `windowing.fold` for a cross-validation.
        values: its values.
        reference: the row that the others are compared with.
        metrics: in the table's order, such as `balanced.tail`.
        groups: extra means over behaviours: near_tail and far_tail split the tail by likeness to its nearest anchor.
        note: what a reader of the table should know.
        gap: a baseline and a ceiling among the rows, such as counting and the oracle; what others close is shown, too.
        costs: whether what rows took is shown; one window of our own models is timed, too, as baselines' are.
        show_validation: whether the table has the score on validation windows, by which one chooses.
    """

    title: str
    question: str = ""
    set: Overrides = {}
    repeat: Literal["seed", "windowing.fold"] = "seed"
    values: list[int] = [0, 1, 2, 3, 4]
    reference: Name
    metrics: list[str] = ["natural.prec_w", "natural.rec_w", "balanced.overall", "balanced.head", "balanced.medium",
                          "balanced.tail"]
    groups: list[Literal["near_tail", "far_tail"]] = []
    note: str = ""
    gap: Gap | None = None
    costs: bool = False
    show_validation: bool = False
    rows: dict[Name, StudyRow] = Field(min_length=1)

    @model_validator(mode="after")
    def _reference_is_a_row(self) -> "Study":
        if self.reference not in self.rows:
            raise ValueError(f"reference {self.reference!r} is none of its rows: {', '.join(self.rows)}")
        if self.gap and (unknown := {self.gap.baseline, self.gap.ceiling} - self.rows.keys()):
            raise ValueError(f"gap: {', '.join(sorted(unknown))}: none of its rows: {', '.join(self.rows)}")
        if len(set(self.values)) != len(self.values) or not self.values:
            raise ValueError(f"values {self.values}: expected one or more, all different")
        return self

    def against(self, reference: str | None) -> "Study":
        """The same study, its rows compared with `reference` where that is given; a `UserError` if it is no row."""
        if reference is None:
            return self
        _named(self.rows, reference, "row")
        return self.model_copy(update={"reference": reference})


class Setting(Section):
    """A log and the sizes of a run: overrides that every row of a study gets first."""

    title: str
    set: Overrides = {}
    simulated: bool = False
    """Whether the log is made from a simulated one, although its format does not say so."""


class Catalogue(Section):
    """All studies, the settings in which they can be run, and the method that a row is that says nothing else."""

    method: Overrides = {}
    settings: dict[Name, Setting]
    studies: dict[Name, Study]

    def study(self, name: str) -> Study:
        """Raises: UserError: there is no such study."""
        return _named(self.studies, name, "study")

    def setting(self, name: str) -> Setting:
        """Raises: UserError: there is no such setting."""
        return _named(self.settings, name, "setting")


def read_studies(path: Path) -> Catalogue:
    """Read and check every study.

    Raises:
        UserError: the file is absent or no YAML, or an entry is wrong; all faults are named at once.
    """
    return checked(read_yaml(path), Catalogue, path)


def read_overrides(texts: Sequence[str], sections: set[str]) -> Overrides:
    """`KEY=VALUE` texts, with values as YAML reads them; nothing is an empty text.

    Symbols of the paper stand for keys, and `recipe=NAME` for an entry of stages/hooks/recipes.yaml, as in
    `dvc exp run -S`. `sections` are the top-level keys of params.yaml.

    Raises:
        UserError: a text has no `=`, its value is no YAML, or there is no such recipe.
    """
    overrides: Overrides = {}
    try:
        texts = expand(list(texts), "params.yaml", sections)
    except InvalidArgumentError as error:
        raise UserError(str(error)) from None
    for text in texts:
        key, equals, value = translate(text, sections).partition("=")
        if not equals or not key:
            raise UserError(f"-S {text}: expected KEY=VALUE, such as -S sft.epochs=2")
        try:
            overrides[key] = YAML(typ="safe", pure=True).load(value) if value.strip() else ""
        except YAMLError:
            raise UserError(f"-S {text}: {value!r} is no value; quote it, such as -S '{key}=\"{value}\"'") from None
    return overrides


def _named(entries: dict[str, Any], name: str, kind: str) -> Any:
    if name not in entries:
        hint = suggestion(name, entries)
        raise UserError(f"{kind} {name!r}: there is none of that name{hint}; there are: {', '.join(entries)}")
    return entries[name]
