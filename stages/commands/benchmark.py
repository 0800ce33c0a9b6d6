"""Command `benchmark`: speed, memory and accuracy beside the tools that people use today, in one process tree.

Not a stage: it makes its own data in a temporary folder and changes nothing that `dvc repro` makes. The tools that it
compares with come with `pip install -e '.[benchmark]'`.
"""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from stages.benchmarks import accuracy, data, dpo, ingest, machine, prediction, scoring, sft
from stages.benchmarks.data import FULL, QUICK, Sizes, on_gpu
from stages.benchmarks.timing import Comparison, table
from stages.common.console import console, standard_output
from stages.common.errors import UserError, run
from stages.common.files import write_json
from stages.model.resolve import resolve, write_manifest
from stages.params import read_all

# Ingest comes first: a child's peak of memory counts from what this process held when it was started.
COMPARISONS = {"ingest": ingest, "sft": sft, "accuracy": accuracy, "scoring": scoring, "dpo": dpo,
               "prediction": prediction}
# packages that a comparison leaves its baseline out without
_PACKAGES = {"scoring": "lm_eval", "ingest": "pandas"}


def benchmark(
    names: list[str], sizes: Sizes, params: Path, model: Path, ours_only: bool,
    save: Callable[[dict[str, Comparison]], None],
) -> dict[str, Comparison]:
    """Run comparisons, one after another; `save` gets what there is after each."""
    done: dict[str, Comparison] = {}
    with tempfile.TemporaryDirectory() as folder:
        inputs = None
        for name in names:
            console.print(name, style="bold")
            if name == "ingest":
                done[name] = ingest.compare(sizes.rows, sizes.ingest_rounds, Path(folder))
            else:
                inputs = inputs or data.simulated(params, sizes, model, Path(folder))
                # accuracy takes over the settings that `sft` found for the baseline
                choice = done["sft"].details["choice"] if name == "accuracy" and "sft" in done else None
                found = {"choice": sft.Choice(**choice)} if choice else {}
                done[name] = COMPARISONS[name].compare(inputs, ours_only, **found)
            save(done)
    return done


def _model(params: Path, folder: Path) -> Path:
    """A folder with base.json: the pipeline's, else one made of `model.name`."""
    if (made := Path("models/base")).joinpath("base.json").exists():
        return made
    settings = read_all(params).model
    write_manifest(resolve(settings.name, settings.revision), folder)
    return folder


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if unknown := [name for name in names if name not in COMPARISONS]:
        raise UserError(f"--only: {unknown[0]!r}: no such comparison; there are {', '.join(COMPARISONS)}")
    return [name for name in COMPARISONS if name in names]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m stages.benchmark", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ",".join(COMPARISONS)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--model", type=Path, help="folder with base.json (default: models/base, else model.name)")
    parser.add_argument("--quick", action="store_true", help="smaller and fewer rounds: minutes, with more noise")
    parser.add_argument("--only", type=str, default=names, help=f"some of {names}")
    parser.add_argument("--rounds", type=int, help="of each side, in turn (default: 3, with --quick 2, of ingest 1)")
    parser.add_argument("--rows", type=int, nargs="+", help="rows of raw log, for ingest")
    parser.add_argument("--threads", type=int, help="of PyTorch on the CPU (default: as it finds)")
    parser.add_argument("--ours-only", action="store_true", help="leave the language models' baselines out")
    parser.add_argument("--out", type=Path, default=Path("metrics/benchmark.json"))
    return parser.parse_args()


def main() -> None:
    args = _arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    names, sizes = _names(args.only), QUICK if args.quick else FULL
    if torch.cuda.is_available():
        sizes = on_gpu(sizes)
    sizes = replace(sizes, rounds=args.rounds or sizes.rounds, ingest_rounds=args.rounds or sizes.ingest_rounds,
                    rows=tuple(args.rows or sizes.rows))
    missing = [f"{name} has no baseline without {package}" for name, package in _PACKAGES.items()
               if name in names and not args.ours_only and not machine.installed(package)]
    if missing:
        console.print(f"not installed: {', '.join(missing)}; {machine.EXTRA}", style="yellow", soft_wrap=True)
    about, versions = machine.describe(), machine.versions()

    def save(done: dict[str, Comparison]) -> None:
        write_json(args.out, {
            "machine": about, "versions": versions, "quick": args.quick, "rounds": sizes.rounds,
            "comparisons": {name: comparison.as_dict() for name, comparison in done.items()},
        })

    with tempfile.TemporaryDirectory() as folder:
        model = args.model or _model(args.params, Path(folder))
        done = benchmark(names, sizes, args.params, model, args.ours_only, save)
    out = standard_output()
    out.print(machine.heading(about, versions), soft_wrap=True)
    out.print(table(done))


if __name__ == "__main__":
    run(main)
