"""What of DVC is changed: symbols and recipes behind `-S`, and a checkout that does not ask for rivals never run.

`dvc exp run -S ε=0.1` and `-S recipe=paper`: Hydra, which DVC reads `-S` with, refuses letters beyond ASCII, and keys
that the file does not have; so the symbol has to become its key, and the recipe the values that it stands for, before
Hydra sees them.

The rivals' pipeline stands beside the main one and need not run, but `dvc checkout`, `dvc exp apply` and Git's hooks
put back the outputs of all pipelines, and fail where some are missing. Those of rivals are left out, unless named.

This file is installed a second time, as the top-level module `behaviorlm_symbols`, with a `.pth` that calls `install`
at every start of Python in the environment. Hence it imports only `sys` at the top, and does nothing until DVC loads
one of the two modules of which one function is wrapped.
"""

import sys

SYMBOLS = {
    "ε": "sft.epsilon",
    "λ": "selection.lambda",
    "β": "dpo.beta",
    "F": "selection.per_behavior",
    "L": "windowing.history",
}

RECIPE, RECIPES = "recipe", "stages/hooks/recipes.yaml"  # the latter beside the file that the overrides are for

RIVALS = "stages/baselines/dvc.yaml"


def translate(override: str, known: set[str]) -> str:
    """Put a key in the place of the symbol in `ε=0.1`; the value, and anything that is no symbol, stays as it is.

    `known` are the sections of the file that the override is for. A file with no such section, or with a key of
    the symbol's own name, is another project's and is left alone.
    """
    from unicodedata import normalize

    name, equals, value = override.partition("=")
    bare = name.lstrip("+~")  # Hydra's marks for adding and removing
    symbol = normalize("NFKC", bare.strip())  # ϵ and ε, ϐ and β are the same letters
    key = SYMBOLS.get(symbol)
    if key is None or symbol in known or key.partition(".")[0] not in known:
        return override
    return name[: len(name) - len(bare)] + key + equals + value


def expand(overrides: list[str], path: str, known: set[str]) -> list[str]:
    """Put the values of an entry of `stages/hooks/recipes.yaml` in the place of `recipe=NAME`.

    They go in front of the other overrides, which so win wherever they stand. Left alone is what is another project's:
    a file with a key of its own named `recipe`, or without recipes beside it that are for its sections. There Hydra
    would only have refused such a key.

    Raises:
        InvalidArgumentError: there is no such recipe, or more than one is named.
    """
    names = [value.strip() for name, _, value in (each.partition("=") for each in overrides) if name.strip() == RECIPE]
    recipes = _recipes(path) if names and RECIPE not in known else {}
    if known.isdisjoint(str(key).partition(".")[0] for values in recipes.values() for key in values):
        return overrides
    if len(names) > 1 or names[0] not in recipes:
        from dvc.exceptions import InvalidArgumentError

        there = f"one of {', '.join(recipes)} ({RECIPES})"
        if len(names) > 1 or any(mark in names[0] for mark in ",(["):
            raise InvalidArgumentError(
                f"-S {RECIPE}={' '.join(names)}: a run takes one recipe, {there}; queue a run for each"
            )
        raise InvalidArgumentError(f"-S {RECIPE}={names[0]}: no such recipe; {there}")

    from json import dumps  # what Hydra takes for the same value: quoted strings, true, null

    values = [f"{key}={dumps(value, ensure_ascii=False)}" for key, value in recipes[names[0]].items()]
    return values + [each for each in overrides if each.partition("=")[0].strip() != RECIPE]


def install() -> None:
    """Wait for DVC's module; safe to call twice."""
    if not any(type(finder).__name__ == _Finder.__name__ for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder:
    """Finds only the modules of `_CHANGED`, as the other finders do, and changes each once it is loaded."""

    def find_spec(self, name, path=None, target=None):
        if name not in _CHANGED:
            return None
        others = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((spec for spec in others if spec is not None), None)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            execute = spec.loader.exec_module

            def exec_module(module):
                execute(module)
                _CHANGED[name](module)

            spec.loader.exec_module = exec_module
        return spec


def _function(module, name: str, without: str):
    """A function that is to be wrapped; where this DVC has none, what goes without it is said on stderr."""
    found = getattr(module, name, None)
    if found is None:
        print(f"behaviorlm: this DVC has no {module.__name__}.{name}, so {without}, or install the DVC that "
              "pyproject.toml names", file=sys.stderr)
    return found


def _read_symbols(module) -> None:
    original = _function(module, "to_path_overrides", "the paper's symbols do not work with `-S`; write the key, such "
                         "as -S sft.epsilon=0.1")
    if original is None:
        return

    def to_path_overrides(path_params):
        overrides = original(path_params)
        return {path: _read(several, path, _sections(path)) for path, several in overrides.items()}

    module.to_path_overrides = to_path_overrides


def _spare_rivals(module) -> None:
    original = _function(module, "checkout", "`dvc checkout` asks for rivals that have not run; add --allow-missing")
    if original is None:
        return
    from functools import wraps

    @wraps(original)
    def checkout(repo, targets=None, **options):
        from dvc.exceptions import CheckoutError
        from dvc.utils import relpath

        try:
            return original(repo, targets, **options)
        except CheckoutError as error:
            if targets:
                raise
            spared = {relpath(out.fs_path) for out in repo.index.outs if out.stage.path_in_repo == RIVALS}
            failed = [path for path in error.target_infos if path not in spared]
            if failed:
                raise CheckoutError(failed, {**error.result, "failed": failed}) from None
            return {name: value for name, value in error.result.items() if name != "failed"}

    module.checkout = checkout


_CHANGED = {"dvc.utils.cli_parse": _read_symbols, "dvc.repo.checkout": _spare_rivals}


def _read(overrides: list[str], path: str, known: set[str]) -> list[str]:
    return [translate(each, known) for each in expand(overrides, path, known)]


def _recipes(path: str) -> dict[str, dict]:
    """The recipes beside a file; none where there is no file of that form."""
    from os.path import dirname, join

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
