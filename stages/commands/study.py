"""Run a study: a declared list of settings over several seeds as DVC experiments, and one table of what came out.

    python -m stages.study table4 --dry          # the plan, the stages to run, an estimate of the time
    python -m stages.study table4                # run what is not finished yet, then write metrics/studies/…

Studies and settings are entries of stages/studies/studies.yaml. Stop it whenever you like: the same command continues,
and a finished study runs nothing. Every row is an experiment: `dvc exp apply NAME` puts it into the workspace.
"""

import argparse
from pathlib import Path

from stages.common import tables
from stages.common.console import console
from stages.common.params import read_yaml
from stages.common.errors import run
from stages.common.files import cache_folder
from stages.common.stage import at_least_1
from stages.params import read_all
from stages.studies import view
from stages.studies.definitions import read_overrides, read_studies
from stages.studies.durations import Durations
from stages.studies.experiments import Queue
from stages.studies.pipeline import Pipeline
from stages.studies.plan import in_turn, plan
from stages.studies.repository import finished
from stages.studies.results import Results, compare

STUDIES = Path("stages/studies/studies.yaml")
RESULTS = Path("metrics/studies")
_BEHAVIORS = 40  # where there is no vocabulary yet


def main() -> None:
    args = _parser().parse_args()
    catalogue = read_studies(STUDIES)
    if not args.names:
        view.list_all(catalogue)
        return
    studies = {name: catalogue.study(name).against(args.reference) for name in args.names}
    params = read_all()
    workspace = read_yaml(Path("params.yaml"))
    request = view.Request(args.setting, catalogue.setting(args.setting), read_overrides(args.set, set(workspace)),
                           args.seeds, tuple(args.rows), args.all_rows, args.reference)
    pipeline, plans = Pipeline(Path()), {}
    for name, study in studies.items():
        seeds = list(range(args.seeds)) if args.seeds and study.repeat == "seed" else None
        if args.seeds and not seeds:
            console.print(f"{name}: --seeds has no part in it: it repeats over {study.repeat}")
        plans[name] = plan(study, name, request.setting, workspace, pipeline, request.overrides, seeds,
                           list(study.rows) if args.all_rows else args.rows, catalogue.method)
    durations = Durations(cache_folder() / "durations.json", _behaviors())
    done = finished(Path())
    view.show_plan(plans, done, durations, args.jobs)
    if args.dry:
        return
    if not args.report_only:
        Queue(Path(), durations, args.jobs).run(in_turn(plans.values()))
        done = finished(Path())
    results = Results(Path())
    folder = RESULTS if args.setting == "default" else RESULTS / args.setting
    for name, made in plans.items():
        summary = compare(made, done, results, params.evaluate.resamples, params.data_seed, durations.took)
        view.write(name, made, summary, request, folder)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m stages.study", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"studies of {STUDIES}; none: list them")
    parser.add_argument("--setting", default="default",
                        help=f"the log and the sizes, a setting of {STUDIES} (default: %(default)s)")
    parser.add_argument("--seeds", type=at_least_1, metavar="N",
                        help="seeds 0 to N - 1 instead of the study's own; a cross-validation keeps its folds")
    rows = parser.add_mutually_exclusive_group()
    rows.add_argument("--rows", nargs="+", default=[], metavar="ROW",
                      help="these rows only, and the reference; rows that need something special run only if named")
    rows.add_argument("--all-rows", action="store_true", help="every row, those that need something special too")
    parser.add_argument("--reference", metavar="ROW",
                        help="the row that the others are compared with (default: the study's own)")
    parser.add_argument("-S", "--set", action="append", default=[], metavar="KEY=VALUE",
                        help="a param of all rows, such as -S sft.epochs=2 or -S ε=0.1; stronger than the setting, "
                             "weaker than a row")
    parser.add_argument("-j", "--jobs", type=at_least_1, default=1, metavar="N",
                        help="experiments at a time, which share out the processors: more work gets done, each takes "
                             "longer and its own memory (default: %(default)s)")
    parser.add_argument("--dry", action="store_true", help="print the plan and its time, run nothing")
    parser.add_argument("--report-only", action="store_true",
                        help="run nothing, compare what is finished; rows and seeds that are not are left out")
    return parser


def _behaviors() -> int:
    path = Path("data/vocabulary.parquet")
    return tables.read("vocabulary", path).height if path.exists() else _BEHAVIORS


if __name__ == "__main__":
    run(main)
