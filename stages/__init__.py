"""The stages of the pipeline, one module each, and the rooms that they share.

Commands for people stand in a room of their own, and keep their short names: `python -m stages.predict`.
"""

__path__.append(f"{__path__[0]}/commands")
