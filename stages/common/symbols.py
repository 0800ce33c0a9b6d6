"""The paper's symbols on the command line: `dvc exp run -S ε=0.1`.

Hydra, which DVC reads `-S` with, refuses letters beyond ASCII, so the symbol has to become its key before Hydra sees
it. This file is installed a second time, as the top-level module `behaviorlm_symbols`, with a `.pth` that calls
`install` at every start of Python in the environment. Hence it imports only `sys` at the top, and does nothing until
DVC loads the one module whose one function is wrapped.
"""

import sys

SYMBOLS = {
    "ε": "sft.epsilon",
    "λ": "selection.lambda",
    "β": "dpo.beta",
    "F": "selection.per_behavior",
    "L": "windowing.history",
}

_MODULE, _FUNCTION = "dvc.utils.cli_parse", "to_path_overrides"


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


def install() -> None:
    """Wait for DVC's module; safe to call twice."""
    if not any(type(finder).__name__ == _Finder.__name__ for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder:
    """Finds only `dvc.utils.cli_parse`, as the other finders do, and wraps its function once it is loaded."""

    def find_spec(self, name, path=None, target=None):
        if name != _MODULE:
            return None
        others = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((spec for spec in others if spec is not None), None)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            execute = spec.loader.exec_module

            def exec_module(module):
                execute(module)
                _wrap(module)

            spec.loader.exec_module = exec_module
        return spec


def _wrap(module) -> None:
    original = getattr(module, _FUNCTION, None)
    if original is None:
        print(
            f"behaviorlm: this DVC has no {_MODULE}.{_FUNCTION}, so the paper's symbols do not work with `-S`; "
            "write the key, such as -S sft.epsilon=0.1, or install the DVC that pyproject.toml names",
            file=sys.stderr,
        )
        return

    def to_path_overrides(path_params):
        overrides = original(path_params)
        return {path: [translate(one, _sections(path)) for one in several] for path, several in overrides.items()}

    setattr(module, _FUNCTION, to_path_overrides)


def _sections(path: str) -> set[str]:
    """The top-level keys of a YAML file; none where it cannot be read, which is DVC's to report."""
    try:
        with open(path, encoding="utf-8") as file:
            return {line.partition(":")[0].rstrip() for line in file if ":" in line and not line[0].isspace()}
    except (OSError, UnicodeDecodeError):
        return set()
