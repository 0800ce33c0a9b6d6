"""Overrides laid over files of params: `sft.epochs` over params.yaml, `FILE:budget.trials` over baselines' settings.

A key names its file as `dvc exp run -S` has it: none before params.yaml's, the path and a colon before others'.
"""

import copy
import functools
from collections.abc import Mapping
from typing import Any

from stages.common.errors import UserError
from stages.common.params import checked
from stages.params import Params
from stages.studies.definitions import Overrides

PARAMS, SETTINGS = "params.yaml", "stages/baselines/params.yaml"

Files = Mapping[str, Mapping[str, Any]]
"""Contents of files of params, nested, by their paths."""


def value_of(params: Mapping[str, Any], key: str, file: str = PARAMS) -> Any:
    """The value, or the section, at a dotted key of what stands in `file`.

    Raises:
        UserError: there is none.
    """
    value: Any = params
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise UserError(f"{file}: there is no key {key}")
        value = value[part]
    return value


def value_in(files: Files, key: str) -> Any:
    """The value at a key that names its file.

    Raises:
        UserError: it is none of `files`, or has no such key, or spells params.yaml out: a key that may be written in
            two ways could be overridden twice.
    """
    file, within = _split(key)
    if key != within and file == PARAMS:
        raise UserError(f"{key}: keys of {PARAMS} have no file before them; write {within}")
    if file not in files:
        raise UserError(f"{key}: {file} is no file of params; there are: {', '.join(files)}")
    return value_of(files[file], within, file)


def applied(files: Files, overrides: Overrides, where: str) -> dict[str, dict[str, Any]]:
    """A copy of `files` with the overrides in it.

    What stands in params.yaml is checked as a whole; of a baseline's setting only whether it is a list where one is
    tried from, the rest by the baseline, when it reads it.

    Raises:
        UserError: a key does not exist, or a value is out of its range or of another kind; `where` says whose it is.
    """
    changed = {file: copy.deepcopy(dict(content)) for file, content in files.items()}
    for key, value in overrides.items():
        try:
            _check_kind(key, value_in(changed, key), value)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        file, within = _split(key)
        *sections, last = within.split(".")
        functools.reduce(dict.__getitem__, sections, changed[file])[last] = value
    checked(changed[PARAMS], Params, where)
    return changed


def budget_trials(settings: Mapping[str, Any]) -> int:
    """Settings that every baseline may try, of the content of the baselines' settings.

    Raises:
        UserError: they do not say, or no whole number of 1 or more.
    """
    found = value_of(settings, "budget.trials", SETTINGS)
    if type(found) is not int or found < 1:
        raise UserError(f"{SETTINGS}: budget.trials: {found!r}: expected a whole number of 1 or more")
    return found


def of_budget(key: str) -> bool:
    """Whether a key is of the tuning budget, which all rows of a study share."""
    file, within = _split(key)
    return file == SETTINGS and within.partition(".")[0] == "budget"


def _check_kind(key: str, there: Any, value: Any) -> None:
    if _split(key)[0] == PARAMS:
        return
    if isinstance(there, Mapping):
        raise UserError(f"{key}: a section; override its keys: {', '.join(there)}")
    if isinstance(there, list) != isinstance(value, list):
        wanted = "a list of values to try, the default first" if isinstance(there, list) else "one value"
        raise UserError(f"{key}: {value!r}: expected {wanted}, such as {there}")


def _split(key: str) -> tuple[str, str]:
    file, _, within = key.rpartition(":")
    return file or PARAMS, within
