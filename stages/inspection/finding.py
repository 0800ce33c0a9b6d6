"""From files to a finding: format, keys of `source`, what is asked, what is in the log."""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.common.errors import UserError
from stages.events import reading, taxonomy
from stages.events.assembly import read_log
from stages.events.formats import FORMATS, OF_TWO_FILES, fitting
from stages.events.sample import Sample, sample
from stages.events.settings import Source
from stages.inspection.facts import Facts, facts
from stages.inspection.roles import Question, roles
from stages.inspection.sampling import BUDGET, Part, part
from stages.inspection.shapes import table
from stages.params import Params

_LOOKED_AT = 12  # files whose beginning is read
_ZONE = ("Where do the people live? The times are in UTC, or say how far from it they are, and the hour of the day "
         "counts: an IANA name such as Europe/Berlin (or UTC, if it does not matter)")
_WHOSE = "Whose are the rows? No column says it"


@dataclass
class Finding:
    """What was found out.

    Attributes:
        settings: keys of `source`, dotted, that differ from those of a log of which nothing is known.
        reasons: why, by key.
        notes: how the file is made.
        questions: what is not known, or not surely.
        facts: None where the log cannot be read until a question is answered.
        trouble: why it cannot be read.
        seconds: that reading a row took.
    """

    settings: dict[str, Any]
    reasons: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    facts: Facts | None = None
    trouble: str = ""
    seconds: float = 0.0


def inspect(paths: list[Path], params: Params, answers: Mapping[str, Any], taxonomies: Path,
            budget: int = BUDGET) -> Finding:
    """Look at a log.

    Args:
        paths: its files, or the folder of them.
        params: whose `windowing`, `ingest` and `instructions` the log is for.
        answers: values of keys of `source`, which no question is asked about.
        taxonomies: the folder of taxonomies.

    Raises:
        UserError: there is no such file, or none that can be read at all.
    """
    source_of(params, answers)
    files = _files(paths)
    seen = {file: sample(file) for file in files[:: max(len(files) // _LOOKED_AT, 1)]}
    found = _format(files, seen, answers)
    log_format = found.settings["format"]
    fit = [file for file, start in seen.items() if log_format in fitting(start)] if log_format != "table" else []
    _place(paths, files, fit, seen, found)
    if log_format == "table":
        _columns(next(iter(seen)), seen, found, with_user="person" not in answers)
    for key, value in answers.items():
        found.settings[key] = value
        found.reasons[key] = "as you say"
    found.questions = [each for each in found.questions if each.key not in answers]
    understood = not any(each.key == "format" and each.guess is None for each in found.questions)
    if log_format == "table" and understood and not found.settings.get("columns.user"):
        found.settings["columns.user"] = ""
        _ask_whose(files, found, answers)
    _read(files, found, params, answers, taxonomies, budget)
    return found


def _files(paths: list[Path]) -> list[Path]:
    if not paths:
        raise UserError("no file; name the log's files, or their folder")
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inner = reading.files_of(path, "**/*")
            if not inner:
                raise UserError(f"{path}: no log in this folder; put one there, or name its files")
            found += inner
        elif path.is_file():
            found.append(path)
        else:
            raise UserError(f"{path}: no such file or folder")
    return found


def _format(files: list[Path], seen: Mapping[Path, Sample], answers: Mapping[str, Any]) -> Finding:
    names = list(dict.fromkeys(name for start in seen.values() for name in fitting(start)))
    if "format" in answers:
        return Finding({"format": answers["format"]})
    if not names:
        return Finding({"format": "table"}, {"format": "no layout of an export that is known"})
    found = Finding({"format": names[0]}, {"format": f"the layout of {names[0]}: stages/events/formats/{names[0]}.py"})
    if len(names) > 1:
        found.questions.append(Question("format", "The files fit several formats. Which?", (*names, "table"), names[0]))
    return found


def _place(paths: list[Path], files: list[Path], fit: list[Path], seen: Mapping[Path, Sample], found: Finding) -> None:
    """`path` and `files`: a folder where there is more than one file, and a pattern of those that are the log."""
    whole = found.settings["format"] in OF_TWO_FILES
    if len(files) == 1 and not whole:
        found.settings["path"] = files[0].as_posix()
        return
    if len(files) == 1:
        root = files[0].parent
        files = [file for file in sorted(root.iterdir()) if file.is_file()]
    elif len(paths) == 1:
        root = paths[0]
    else:
        root = Path(*_common([file.parent.parts for file in files]))
    found.settings["path"] = root.as_posix()
    wanted = files
    if fit and not whole and len(fit) < len(seen):
        wanted = [file for file in files if file.suffix in {each.suffix for each in fit} and (
            _first_folder(file, root) in {_first_folder(each, root) for each in fit})]
    pattern = _pattern(root, wanted)
    if pattern is None:
        found.questions.append(Question("files", f"Which files of {root} are the log, as a pattern? No simple one "
                                        f"picks these {len(wanted)} alone", guess="*"))
        pattern = "*"
    if pattern != "*":
        found.settings["files"] = pattern
        found.reasons["files"] = "the files that are the log"


def _first_folder(file: Path, root: Path) -> str:
    return file.relative_to(root).parts[0] if file.parent != root else ""


def _common(parts: list[tuple[str, ...]]) -> list[str]:
    common = []
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            break
        common.append(level[0])
    return common


def _pattern(root: Path, wanted: list[Path]) -> str | None:
    endings = ["".join(wanted[0].suffixes[-2:]), wanted[0].suffix]
    first = wanted[0].relative_to(root).parts[0]
    tried = ["*", *(f"*{ending}" for ending in endings), "*/*", *(f"*/*{ending}" for ending in endings), "**/*",
             *(f"**/*{ending}" for ending in endings), *(f"{first}/**/*{ending}" for ending in endings)]
    for pattern in tried:
        try:
            if set(reading.find_files(root, pattern)) == set(wanted):
                return pattern
        except UserError:
            continue
    return None


def _columns(path: Path, seen: Mapping[Path, Sample], found: Finding, with_user: bool) -> None:
    try:
        shape = table(path, seen[path])
    except UserError as error:
        found.questions.append(Question("format", f"What is this file? {error}", tuple(sorted(FORMATS))))
        return
    decided = roles(shape.columns, with_user)
    found.settings |= {"columns.clock": "", "columns.offset": "", **decided.settings, **shape.settings}
    found.reasons |= decided.reasons
    found.notes += shape.notes
    found.questions += [each for each in decided.questions if each.key != "columns.user" or each.guess]
    if "columns.user" not in decided.settings:
        found.settings["columns.user"] = ""
    if not decided.aware and not decided.settings.get("columns.offset"):
        found.settings["naive_times"] = "local"
        found.reasons["naive_times"] = "times say no offset: taken as the people's own; utc if they are in UTC"
    if decided.aware and not decided.settings.get("columns.offset"):
        own = [offset for offset in decided.offsets if offset]
        if len(own) > 1:
            found.questions.append(Question(
                "time_zone", "Times are written with several offsets: does each person keep the hour that is written "
                "(travellers), or do all live in one zone, and in which?", ("written", "Europe/Berlin …"), "written"))
        else:
            found.questions.append(Question("time_zone", _ZONE, ("Europe/Berlin …",)))
    elif decided.settings.get("columns.offset") and not decided.aware:
        found.questions.append(Question("naive_times", "Each row has an offset: are the times beside it local already, "
                                        "or in UTC?", ("local", "utc"), "local"))


def _ask_whose(files: list[Path], found: Finding, answers: Mapping[str, Any]) -> None:
    if "person" in answers:
        return
    several = len(files) > 1
    folders = len({file.parent for file in files}) > 1
    guess = "folder" if folders else "file" if several else "one"
    ways = f" ({len(files)} files)" if several else ""
    found.settings["person"] = guess
    in_parts = guess == "file" and found.settings.get("format") != "table"  # what one person's export may come in
    found.questions.append(Question("person", f"{_WHOSE}{ways}: is each file a person's (file), each folder (folder), "
                                    "or are all one person's (one)?", ("file", "folder", "one"),
                                    None if in_parts else guess))


def source_of(params: Params, settings: Mapping[str, Any]) -> Source:
    """The section `source` with these keys, the others as of a log of which nothing is known.

    Raises:
        UserError: a key or a value is none.
    """
    content = params.source.model_dump() | {
        "files": "*", "person": "column", "event_columns": [], "time_format": "iso", "dates": "refuse",
        "time_zone": "", "naive_times": "local", "order": "auto", "separator": "auto", "header": True, "skip": 0,
        "events": "", "split": "", "taxonomy": "auto", "top": 0}
    content["columns"] = dict(content["columns"])
    for key, value in settings.items():
        section, _, name = key.rpartition(".")
        if section not in ("", "columns"):
            raise UserError(f"source.{key}: no such key; keys of source are {', '.join(params.source.model_dump())}")
        (content[section] if section else content)[name] = value
    try:
        return Source.model_validate(content)
    except ValueError as error:
        faults: list[Any] = getattr(error, "errors", list)()
        raise UserError("; ".join(f"source.{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in faults)
                        ) from None


def _read(files: list[Path], found: Finding, params: Params, answers: Mapping[str, Any], taxonomies: Path,
          budget: int) -> None:
    """Read a part of the log as ingest would; what it asks becomes a question."""
    if any(each.guess is None and each.key != "time_zone" for each in found.questions):
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(found.settings["path"])
        own = reading.find_files(root, found.settings.get("files", "*"))
        cut = part(root, own, Path(folder) / "log", budget)
        if cut.share < 1:
            found.notes.append(f"looked at {cut.share:.1%} of the log, in pieces from all over it (packed files and "
                               "JSON lists: their beginnings)")
        settings = dict(found.settings)
        for _ in range(3):  # person and zone may both be asked for
            settings["path"] = cut.root.as_posix()
            if any(each.key == "time_zone" for each in found.questions) and not settings.get("time_zone"):
                settings["time_zone"] = next((each.guess for each in found.questions if each.key == "time_zone"
                                              and each.guess), "UTC")
            try:
                _facts(found, source_of(params, settings), cut, params, taxonomies)
                return
            except UserError as error:
                text = str(error).replace(cut.root.as_posix(), root.as_posix())
                if "source.person: column" in text and "person" not in settings:
                    _ask_whose(own, found, answers)
                    settings["person"] = found.settings["person"]
                elif "source.time_zone" in text and "time_zone" not in settings:
                    found.questions.append(Question("time_zone", _ZONE, ("Europe/Berlin …",)))
                else:
                    found.trouble = text
                    return


def _facts(found: Finding, source: Source, cut: Part, params: Params, taxonomies: Path) -> None:
    file = taxonomy.find(source.taxonomy, source.format, taxonomies)
    start = time.monotonic()
    log = read_log(FORMATS[source.format], source, taxonomy.read(file) if file else None, b"inspect")
    found.seconds = (time.monotonic() - start) / max(log.rows, 1)
    found.facts = facts(log, cut.share, params.windowing)
