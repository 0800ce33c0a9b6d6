"""Command `benchmark`: speed, memory and accuracy beside the tools that people use today, in one process tree.

Not a stage: it makes its own data in a temporary folder and changes nothing that `dvc repro` makes. The rivals come
with `pip install -e '.[benchmark]'`.
"""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from stages.benchmarks import machine, report
from stages.benchmarks.peers import EXTRA, installed
from stages.benchmarks.sizes import FULL, QUICK, Sizes, on_gpu
from stages.benchmarks.timing import Comparison, Row
from stages.common.console import console
from stages.common.errors import UserError, run
from stages.common.files import write_json
from stages.params import read_all
from stages.model.resolve import resolve, write_manifest

# Ingest comes first: a child's peak of memory counts from what this process held when it was started.
NAMES = ("ingest", "sft", "accuracy", "scoring", "dpo", "prediction")
_RIVALS = {"scoring": "lm_eval", "ingest": "pandas"}


def benchmark(
    names: list[str], sizes: Sizes, params: Path, model: Path, ours_only: bool,
    save: Callable[[dict[str, Comparison]], None],
) -> dict[str, Comparison]:
    """Run comparisons, one after another; `save` gets what there is after each."""
    from stages.benchmarks import accuracy, data, dpo, ingest, prediction, scoring, sft

    done: dict[str, Comparison] = {}
    choice: sft.Choice | None = None
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        material = None
        for name in names:
            console.print(f"[bold]{name}[/]")
            if name != "ingest" and material is None:
                material = data.simulated(params, model, folder)
            if name == "sft":
                done[name], choice = sft.compare(material, sizes, folder, ours_only)
            elif name == "accuracy":
                done[name] = accuracy.compare(material, sizes, folder, choice, ours_only)
            elif name == "scoring":
                done[name] = scoring.compare(material, sizes, ours_only)
            elif name == "dpo":
                done[name] = dpo.compare(material, sizes, folder, ours_only)
            elif name == "prediction":
                done[name] = prediction.compare(material, sizes, ours_only)
            else:
                found = ingest.compare(sizes.rows, sizes.ingest_rounds, folder)
                done[name] = Comparison([Row(**row) for row in found.pop("rows")], found)
            save(done)
    return done


def _model(given: Path | None, params: Path, folder: Path) -> Path:
    """A folder with base.json: the one given, else the pipeline's, else one made of `model.name`."""
    if given is not None:
        return given
    if (made := Path("models/base")).joinpath("base.json").exists():
        return made
    settings = read_all(params).model
    write_manifest(resolve(settings.name, settings.revision), folder)
    return folder


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if unknown := [name for name in names if name not in NAMES]:
        raise UserError(f"--only: {unknown[0]!r}: no such comparison; there are {', '.join(NAMES)}")
    return [name for name in NAMES if name in names]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m stages.benchmark", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--model", type=Path, help="folder with base.json (default: models/base, else model.name)")
    parser.add_argument("--quick", action="store_true", help="smaller and fewer rounds: minutes, with more noise")
    parser.add_argument("--only", default=",".join(NAMES), help=f"some of {','.join(NAMES)}")
    parser.add_argument("--rounds", type=int, help="of each side, in turn (default: 3, with --quick 2, of ingest 1)")
    parser.add_argument("--rows", type=int, nargs="+", help="rows of raw log, for ingest")
    parser.add_argument("--threads", type=int, help="of PyTorch on the CPU (default: as it finds)")
    parser.add_argument("--ours-only", action="store_true", help="leave the language models' rivals out")
    parser.add_argument("--out", type=Path, default=Path("metrics/benchmark.json"))
    return parser.parse_args()


def main() -> None:
    args = _arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    names, sizes = _names(args.only), QUICK if args.quick else FULL
    if torch.cuda.is_available():
        sizes = on_gpu(sizes)
    changes: dict[str, Any] = {"rounds": args.rounds, "ingest_rounds": args.rounds} if args.rounds else {}
    sizes = replace(sizes, **changes | ({"rows": tuple(args.rows)} if args.rows else {}))
    wanted = {} if args.ours_only else {name: rival for name, rival in _RIVALS.items() if name in names}
    if missing := [(name, rival) for name, rival in wanted.items() if not installed(rival)]:
        left = ", ".join(f"{name} has no rival without {rival}" for name, rival in missing)
        console.print(f"not installed: {left}; {EXTRA}", markup=False, style="yellow", soft_wrap=True)
    about, versions = machine.describe(), machine.versions()

    def save(done: dict[str, Comparison]) -> None:
        write_json(args.out, {
            "machine": about, "versions": versions, "quick": args.quick, "rounds": sizes.rounds,
            "comparisons": {name: comparison.as_dict() for name, comparison in done.items()},
        })

    with tempfile.TemporaryDirectory() as folder:
        model = _model(args.model, args.params, Path(folder))
        done = benchmark(names, sizes, args.params, model, args.ours_only, save)
    out = Console(highlight=False)
    if not out.is_terminal:
        out.width = 160
    out.print(report.heading(about, versions), soft_wrap=True, markup=False)
    out.print(report.table(done))


if __name__ == "__main__":
    run(main)
