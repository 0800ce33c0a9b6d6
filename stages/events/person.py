"""Whose the rows of a file are where no column says it: its name tells, its folder's name, or all are one person's."""

from pathlib import Path, PurePath

from stages.common.errors import UserError
from stages.events.settings import Source

ONE = "one"
"""The id of the person whose log it all is."""


def of_file(path: Path, source: Source) -> str | None:
    """The id of the person that a file is of, by `source.person`; None where a column says it.

    Raises:
        UserError: the file lies in no folder that could be a person's.
    """
    if source.person == "column":
        return None
    if source.person == ONE:
        return ONE
    root = Path(source.path)
    within = PurePath(path.name) if path == root else path.relative_to(root)
    if source.person == "file":
        return _without_endings(within)
    if len(within.parts) == 1:
        raise UserError(f"{path}: source.person: folder, and the file lies in no folder within {root}; move it into "
                        "one named for its person (and set source.files to '*/*'), or set source.person to file or one")
    return within.parts[0]


def need(path: Path, source: Source) -> str:
    """The person that a file is of, for formats whose rows never say it.

    Raises:
        UserError: `source.person` asks a column, and as `of_file`.
    """
    person = of_file(path, source)
    if person is None:
        raise UserError(f"{path}: source.person: column, and source.format {source.format} says nowhere whose the log "
                        "is; set it to file (each file is one person's), folder (each folder in source.path is), or "
                        "one (all are one person's)")
    return person


def _without_endings(path: PurePath) -> str:
    """`anna/log` of `anna/log.csv.gz`."""
    if path.suffix == ".gz":
        path = path.with_suffix("")
    return path.with_suffix("").as_posix()
