"""The formats of logs that `source.format` may name, beside `simulated`. A new one is a file like its neighbours."""

from importlib import import_module

from stages.events import settings
from stages.events.assembly import Format


def _format(name: str) -> Format:
    module = import_module(f"{__name__}.{name}")
    return Format(module.read, getattr(module, "finish", Format.finish))


FORMATS = {name: _format(name) for name in settings.FORMATS}
