"""What a person sees of a study: the list, the plan with its time, and the table with where it comes from."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from rich.table import Table
from rich.text import Text

from stages.common.console import console, duration
from stages.common.files import DIGITS, atomic_file, write_json
from stages.studies.compare import Summary
from stages.studies.definitions import Catalogue, Overrides, Setting
from stages.studies.durations import OVERHEAD, Durations
from stages.studies.plan import Plan, in_turn, stage_runs
from stages.studies.repository import Finished, commit
from stages.studies.table import gap_table, markdown, show

_LEADS_TO_RESULTS = ("dvc.yaml", "params.yaml", "stages")


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line, as far as a result depends on it."""

    setting_name: str
    setting: Setting
    overrides: Overrides
    seeds: int | None = None
    rows: tuple[str, ...] = ()
    all_rows: bool = False
    reference: str | None = None

    def command(self, study: str) -> str:
        """The command line that repeats it for one study, without the folders of this machine."""
        words = [study]
        if self.setting_name != "default":
            words += ["--setting", self.setting_name]
        if self.seeds:
            words += ["--seeds", str(self.seeds)]
        for key, value in public(self.overrides).items():
            words += ["-S", f"{key}={_text(value)}"]
        if self.reference:
            words += ["--reference", self.reference]
        if self.all_rows:
            words.append("--all-rows")
        elif self.rows:
            words += ["--rows", *self.rows]
        return f"python -m stages.study {shlex.join(words)}"


def public(overrides: Mapping[str, Any]) -> Overrides:
    """Overrides as results show them: of the log's path, and of any absolute one, the last part only."""
    def shown(key: str, value: Any) -> Any:
        if not isinstance(value, str) or not (key == "source.path" or _is_absolute(value)):
            return value
        return PureWindowsPath(value).name if "\\" in value else PurePosixPath(value).name

    return {key: shown(key, value) for key, value in overrides.items()}


def list_all(catalogue: Catalogue) -> None:
    """Print the names and titles of all studies and settings."""
    for title, entries in (("studies", catalogue.studies), ("settings", catalogue.settings)):
        table = Table(title=title, title_justify="left", box=None, show_header=False, pad_edge=False)
        for name, entry in entries.items():
            table.add_row(name, Text(entry.title))
        console.print(table)


def show_plan(plans: Mapping[str, Plan], done: Mapping[str, Finished], durations: Durations, jobs: int = 1) -> None:
    """Print what is finished, and the stages and the time that the rest will take."""
    experiments = in_turn(plans.values())
    ended = [experiment for experiment in experiments if experiment.mark in done]
    left = [experiment for experiment in experiments if experiment.mark not in done]
    console.print(f"{', '.join(plans)}: {len(experiments)} experiments, {len(ended)} finished, {len(left)} to run")
    for made in plans.values():
        for row, by_value in made.by_row.items():
            states = " ".join(f"{value}{''.join('✓' if each.mark in done else '·' for each in settings)}"
                              for value, settings in by_value.items())
            first = next(iter(by_value.values()))[0]
            name = done.get(first.mark, first).name
            console.print(Text.assemble(f"  {row}: {made.study.repeat} {states}  ", (name, "dim")), soft_wrap=True)
            tried = len(made.rows[row].alternatives) + 1
            if 1 < tried < first.trials:
                console.print(f"  {row}: tries {tried} settings, baselines may try {first.trials}")
    if not left:
        return
    runs = stage_runs(left, ended)
    seconds = {stage: sum(durations.seconds(stage, e.params, e.trials) for e in by) for stage, by in runs.items()}
    for stage, by in runs.items():
        console.print(f"  {stage}: {len(by)} × {duration(seconds[stage] / len(by))}")
    total = (sum(seconds.values()) + OVERHEAD * len(left)) / min(jobs, len(left))
    console.print(f"about {duration(total)} on this machine, if no stage is in DVC's run cache yet")


def caption(name: str, made: Plan, summary: Summary, request: Request, commit: str) -> str:
    """What a table is of and how to make it again, as Markdown in one paragraph."""
    given = public({**request.setting.set, **made.study.set, **request.overrides})
    settings = ", ".join(f"`{key}={_text(value)}`" for key, value in given.items())
    numbers, ran = summary.repetitions, {row.name: row for row in summary.rows}
    # only of rows that have fewer: in a finished study there are none
    short = [f"{row} {done} of {len(by_value)}" for row, by_value in made.by_row.items()
             if (done := len(ran[row].repetitions) if row in ran else 0) < len(by_value)]
    short += [f"{name} {fewest} of {wanted} settings" for name, row in ran.items()
              if (fewest := min((facts["tried"] for facts in row.facts if "tried" in facts), default=0))
              and fewest < (wanted := len(next(iter(made.by_row[name].values()))))]
    lines = [
        made.study.question or f"{made.study.title}.",
        "**The log is simulated.**" if _simulated(made, request) else "",
        f"Setting `{request.setting_name}`: {request.setting.title}.",
        f"Params that differ in all rows: {settings}." if settings else "",
        f"{len(numbers)} repetition{'s' * (len(numbers) != 1)}: {made.study.repeat} {', '.join(map(str, numbers))}.",
        f"Not finished yet: {'; '.join(short)}." if short else "",
        f"Commit {commit}.",
        f"`{request.command(name)}`",
    ]
    return "\n".join(line for line in lines if line)


def write(name: str, made: Plan, summary: Summary, request: Request, folder: Path) -> None:
    """Write `folder`/`name`.md and .json, and print the table."""
    study, found = made.study, commit(paths=_LEADS_TO_RESULTS, short=True)
    at = f"{found.name} with changes" if found.dirty else str(found.name)
    text = markdown(summary, study.title, caption(name, made, summary, request, at), study.show_validation)
    shown = {row.name for row in summary.rows}
    gap = gap_table(summary, study.gap) if study.gap and {study.gap.baseline, study.gap.ceiling} <= shown else None
    text += "".join(f"\n{part}" for part in (gap, study.note and f"{study.note}\n") if part)
    rows = {row: entry.model_dump() | {"set": public(entry.set), "alternatives": [*map(public, entry.alternatives)]}
            for row, entry in made.rows.items()}
    content = {
        "study": name, "title": study.title, "setting": public(request.setting.set),
        "overrides": public(request.overrides), "set": public(study.set), "commit": at,
        "command": request.command(name), "note": study.note, "gap": gap, "show_validation": study.show_validation,
        "format": _log_format(made), "simulated": _simulated(made, request),
    }
    # the summary's own rows hold each row's figures; what the rows were set to stands beside them
    write_json(folder / f"{name}.json", content | {"row_settings": rows} | summary.to_json(), DIGITS)
    with atomic_file(folder / f"{name}.md") as path:
        path.write_text(text, encoding="utf-8")
    show(summary, study.title, f"{study.title}. {request.setting.title}", validation=study.show_validation)
    console.print(f"written: {folder / name}.md and .json")


def _log_format(made: Plan) -> str:
    """`source.format` of the study's reference row."""
    return next(iter(made.by_row[made.study.reference].values()))[0].params.source.format


def _simulated(made: Plan, request: Request) -> bool:
    """Whether the numbers are of a simulated log, which must be said wherever they appear."""
    return request.setting.simulated or _log_format(made) == "simulated"


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)


def _is_absolute(text: str) -> bool:
    return text.startswith("~") or any(kind(text).is_absolute() for kind in (PurePosixPath, PureWindowsPath))
