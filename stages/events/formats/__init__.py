"""The formats of logs that `source.format` may name, beside `simulated`. A new one is a file like its neighbours."""

from importlib import import_module
from types import ModuleType

from stages.events import settings
from stages.events.assembly import Format
from stages.events.sample import Sample


_MODULES: dict[str, ModuleType] = {name: import_module(f"{__name__}.{name}") for name in settings.FORMATS}

FORMATS = {name: Format(module.read, getattr(module, "finish", Format.finish)) for name, module in _MODULES.items()}

OF_TWO_FILES = {name for name, module in _MODULES.items() if getattr(module, "TWO_FILES", False)}
"""Those that read a file beside the log's: `source.path` is the folder of both."""


def fitting(sample: Sample) -> list[str]:
    """The formats that know a file as theirs by its beginning; `table`, which fits most files, is none of them."""
    return [name for name, module in _MODULES.items() if hasattr(module, "fits") and module.fits(sample)]
