"""The tools that we compare with come from an extra, so that nobody has to install them to use the project."""

from importlib.util import find_spec

EXTRA = "pip install -e '.[benchmark]'"


def installed(module: str) -> bool:
    """Whether a rival can be imported."""
    return find_spec(module) is not None
