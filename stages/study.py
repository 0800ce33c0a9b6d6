"""Run a study: a declared list of settings over several seeds as DVC experiments, and one table of what came out.

    python -m stages.study table4 --dry          # the plan, the stages to run, an estimate of the time
    python -m stages.study table4                # run what is not finished yet, then write metrics/studies/…

Studies and settings are entries of data/studies.yaml. Stop it whenever you like: the same command continues, and a finished
study runs nothing. Every row is an experiment: `dvc exp apply NAME` puts it into the workspace.
"""

import argparse
from pathlib import Path
from typing import Any

from rich.table import Table
from ruamel.yaml import YAML

from stages.common import tables
from stages.common.console import console, duration
from stages.common.errors import UserError, run
from stages.common.files import atomic_file, cache_folder, write_json
from stages.common.inputs import at_least_1
from stages.common.params import read_params
from stages.studies.collect import Results
from stages.studies.compare import Summary
from stages.studies.definitions import Catalogue, Overrides, Setting, Study, read_studies
from stages.studies.durations import Durations
from stages.studies.experiments import Queue, finished
from stages.studies.pipeline import Pipeline
from stages.studies.plan import Experiment, Plan, plan
from stages.studies.results import compare
from stages.studies.table import markdown, show

STUDIES = Path("data/studies.yaml")
RESULTS = Path("metrics/studies")
_BEHAVIORS = 40  # where there is no vocabulary yet


def main() -> None:
    args = _parser().parse_args()
    catalogue = read_studies(STUDIES)
    if not args.names:
        _list(catalogue)
        return
    params = read_params()
    workspace = YAML(typ="safe", pure=True).load(Path("params.yaml").read_text(encoding="utf-8"))
    pipeline, extra = Pipeline(Path()), _overrides(args.set)
    setting = catalogue.setting(args.setting)
    values = list(range(args.seeds)) if args.seeds else None
    plans = {}
    for name in args.names:
        study = catalogue.study(name)
        chosen = values if values and study.repeat == "seed" else None
        plans[name] = plan(study, name, setting, workspace, pipeline, extra, chosen, args.rows)
    durations = Durations(cache_folder() / "durations.json", _behaviors())
    done = finished(Path())
    _show_plan(plans, done, durations)
    if args.dry:
        return
    if not args.report_only:
        Queue(Path(), durations).run(_in_turn(plans))
        done = finished(Path())
    results = Results(Path())
    for name, made in plans.items():
        folder = RESULTS if args.setting == "default" else RESULTS / args.setting
        _write(name, made, compare(made, done, results, params.evaluate.resamples, params.data_seed), setting, extra,
               folder)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m stages.study", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="studies of data/studies.yaml; none: list them")
    parser.add_argument("--setting", default="default",
                        help="the log and the sizes, a setting of data/studies.yaml (default: %(default)s)")
    parser.add_argument("--seeds", type=at_least_1, metavar="N", help="seeds 0 to N - 1 instead of the study's own")
    parser.add_argument("--rows", nargs="+", default=[], metavar="ROW",
                        help="these rows only, and the reference; rows that need something special run only so")
    parser.add_argument("-S", "--set", action="append", default=[], metavar="KEY=VALUE",
                        help="a param of all rows, such as -S sft.epochs=2; stronger than the setting, weaker than a row")
    parser.add_argument("--dry", action="store_true", help="print the plan and its time, run nothing")
    parser.add_argument("--report-only", action="store_true",
                        help="run nothing, compare what is finished; rows and seeds that are not are left out")
    return parser


def _list(catalogue: Catalogue) -> None:
    for title, entries in (("studies", catalogue.studies), ("settings", catalogue.settings)):
        table = Table(title=title, title_justify="left", box=None, show_header=False, pad_edge=False)
        for name, entry in entries.items():
            table.add_row(name, entry.title)
        console.print(table)


def _overrides(texts: list[str]) -> Overrides:
    """`KEY=VALUE` texts with values as YAML reads them.

    Raises:
        UserError: a text has no `=`.
    """
    overrides: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"-S {text}: expected KEY=VALUE, such as -S sft.epochs=2")
        overrides[key] = YAML(typ="safe", pure=True).load(value)
    return overrides


def _behaviors() -> int:
    path = Path("data/vocabulary.parquet")
    return tables.read("vocabulary", path).height if path.exists() else _BEHAVIORS


def _in_turn(plans: dict[str, Plan]) -> list[Experiment]:
    """Every experiment once, all studies' first repetitions before the second ones."""
    order: dict[str, Experiment] = {}
    for turn in range(max(len(made.study.values) for made in plans.values()) + 1):
        for made in plans.values():
            for by_value in made.of_row.values():
                for experiment in list(by_value.values())[turn : turn + 1]:
                    order.setdefault(experiment.mark, experiment)
    rest = {e.mark: e for made in plans.values() for e in made.experiments}
    return list((order | {mark: e for mark, e in rest.items() if mark not in order}).values())


def _show_plan(plans: dict[str, Plan], done: dict[str, str], durations: Durations) -> None:
    experiments = _in_turn(plans)
    ended = [experiment for experiment in experiments if experiment.mark in done]
    left = [experiment for experiment in experiments if experiment.mark not in done]
    console.print(f"{', '.join(plans)}: {len(experiments)} experiments, {len(ended)} finished, {len(left)} to run")
    for made in plans.values():
        for row, by_value in made.of_row.items():
            states = " ".join(f"{value}{'✓' if e.mark in done else '·'}" for value, e in by_value.items())
            console.print(f"  {row}: {made.study.repeat} {states}  [dim]{next(iter(by_value.values())).name}[/dim]",
                          soft_wrap=True)
    if not left:
        return
    first = next(iter(plans.values()))
    runs = Plan(first.study, {}, left, {}).stage_runs(ended)
    seconds = {stage: sum(durations.seconds(stage, e.params) for e in by) for stage, by in runs.items()}
    for stage, by in runs.items():
        console.print(f"  {stage}: {len(by)} × {duration(seconds[stage] / len(by))}")
    total = sum(seconds.values()) + durations.overhead() * len(left)
    console.print(f"about {duration(total)} on this machine, if no stage is in DVC's run cache yet")


def _write(name: str, made: Plan, summary: Summary, setting: Setting, extra: Overrides, folder: Path) -> None:
    study: Study = made.study
    caption = f"{study.title}. {setting.title}"
    text = markdown(summary, study.title, caption)
    if study.note:
        text += f"\n{study.note}\n"
    content = {"study": name, "title": study.title, "setting": setting.set, "overrides": extra, "set": study.set,
               "rows": {row: entry.model_dump() for row, entry in made.rows.items()}} | summary.to_json()
    write_json(folder / f"{name}.json", content)
    with atomic_file(folder / f"{name}.md") as path:
        path.write_text(text, encoding="utf-8")
    show(summary, study.title, caption)
    console.print(f"written: {folder / name}.md and .json")


if __name__ == "__main__":
    run(main)
