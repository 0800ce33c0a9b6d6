"""The paper's symbols and recipes behind `-S`: `dvc exp run -S ε=0.1` and `-S recipe=paper`.

Hydra, which DVC reads `-S` with, refuses letters beyond ASCII, and keys that the file does not have; so the symbol has
to become its key, and the recipe the values that it stands for, before Hydra sees them.
"""

from collections.abc import Container
from difflib import get_close_matches
from json import dumps
from os.path import dirname, exists, join
from re import fullmatch
from unicodedata import normalize

SYMBOLS = {
    "ε": "sft.epsilon",
    "λ": "selection.lambda",
    "β": "dpo.beta",
    "F": "selection.per_behavior",
    "L": "windowing.history",
}

RECIPE, RECIPES = "recipe", "stages/hooks/recipes.yaml"  # the latter beside the file that the overrides are for


def translate(override: str, known: Container[str]) -> str:
    """Put a key in the place of the symbol in `ε=0.1`; the value, and anything that is no symbol, stays as it is.

    `known` are the sections of the file that the override is for. A file with no such section, or with a key of
    the symbol's own name, is another project's and is left alone.
    """
    name, equals, value = override.partition("=")
    bare = name.lstrip("+~")  # Hydra's marks for adding and removing
    symbol = normalize("NFKC", bare.strip())  # ϵ and ε, ϐ and β are the same letters
    key = SYMBOLS.get(symbol)
    if key is None or symbol in known or key.partition(".")[0] not in known:
        return override
    return name[: len(name) - len(bare)] + key + equals + value


def expand(overrides: list[str], path: str, known: Container[str]) -> list[str]:
    """Put the values of an entry of `stages/hooks/recipes.yaml` in the place of `recipe=NAME`.

    They go in front of the other overrides, which so win wherever they stand. Left alone is what is another project's:
    a file with a key of its own named `recipe`, or without recipes beside it that are for its sections. There Hydra
    would only have refused such a key.

    Raises:
        InvalidArgumentError: there is no such recipe, or more than one is named.
    """
    names = [value.strip() for name, _, value in (each.partition("=") for each in overrides) if name.strip() == RECIPE]
    recipes = _recipes(path) if names and RECIPE not in known else {}
    if not any(str(key).partition(".")[0] in known for values in recipes.values() for key in values):
        return overrides
    if len(names) > 1 or names[0] not in recipes:
        from dvc.exceptions import InvalidArgumentError

        there = f"one of {', '.join(recipes)} ({RECIPES})"
        if len(names) > 1 or any(mark in names[0] for mark in ",(["):
            raise InvalidArgumentError(
                f"-S {RECIPE}={' '.join(names)}: a run takes one recipe, {there}; queue a run for each"
            )
        raise InvalidArgumentError(f"-S {RECIPE}={names[0]}: no such recipe; {there}")

    # Hydra takes JSON for the same value: quoted strings, true, null
    values = [f"{key}={dumps(value, ensure_ascii=False)}" for key, value in recipes[names[0]].items()]
    return values + [each for each in overrides if each.partition("=")[0].strip() != RECIPE]


def wrapped(original):
    """`dvc.utils.cli_parse.to_path_overrides`, with symbols and recipes read."""

    def to_path_overrides(path_params):
        overrides = original(path_params)
        return {path: check(_read(several, path, _sections(path)), path) for path, several in overrides.items()}

    return to_path_overrides


def _read(overrides: list[str], path: str, known: Container[str]) -> list[str]:
    return [translate(each, known) for each in expand(overrides, path, known)]


def check(overrides: list[str], path: str) -> list[str]:
    """The overrides, all of keys that the file has: Hydra's advice for others, `+`, gives a key that stages refuse.

    Raises:
        InvalidArgumentError: there is no such key; names the one that was meant.
    """
    from dvc.exceptions import DvcException, InvalidArgumentError
    from dvc.utils.serialize import load_yaml

    try:
        found = load_yaml(path) if exists(RECIPES) else None
    except (OSError, DvcException):
        found = None  # for DVC to report
    if not isinstance(found, dict):
        return overrides
    for override in overrides:
        key = override.partition("=")[0].strip().lstrip("+~")
        if key and fullmatch(r"[\w.-]+", key) and not _has(found, key.split(".")):
            close = get_close_matches(key, _keys(found), n=1, cutoff=0.7)
            hint = f"did you mean {close[0]}?" if close else "the file says which there are"
            raise InvalidArgumentError(f"-S {override}: {path} has no {key}; {hint}")
    return overrides


def _has(found, parts: list[str]) -> bool:
    """Whether a key is there; what stands in a list is left to Hydra."""
    for part in parts:
        if not isinstance(found, dict):
            return isinstance(found, list)
        if part not in found:
            return False
        found = found[part]
    return True


def _keys(found: dict, before: str = "") -> list[str]:
    """All keys, with those above them: `sft`, `sft.epochs`."""
    keys = []
    for key, value in found.items():
        keys.append(f"{before}{key}")
        keys += _keys(value, f"{before}{key}.") if isinstance(value, dict) else []
    return keys


def _recipes(path: str) -> dict[str, dict]:
    """The recipes beside a file; none where there is no file of that form."""
    from dvc.utils.serialize import load_yaml

    try:
        recipes = load_yaml(join(dirname(path), RECIPES))
    except OSError:
        return {}
    mappings = isinstance(recipes, dict) and all(isinstance(values, dict) for values in recipes.values())
    return recipes if mappings else {}


def _sections(path: str) -> set[str]:
    """The top-level keys of a YAML file; none where it cannot be read, which is DVC's to report."""
    try:
        with open(path, encoding="utf-8") as file:
            return {line.partition(":")[0].rstrip() for line in file if ":" in line and not line[0].isspace()}
    except (OSError, UnicodeDecodeError):
        return set()
