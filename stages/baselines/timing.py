"""What one window takes our own models, measured as every rival's is: by itself, its whole prompt read.

Rivals' metrics say so themselves. Those of the default run do not, so that it gives the same bytes twice.
"""

import argparse
from pathlib import Path

from stages.baselines.fitting.latency import latency_ms
from stages.common.console import console
from stages.common.errors import run
from stages.common.files import write_json
from stages.common import tables
from stages.common.params import read_params
from stages.model.likelihood import score
from stages.model.load import load_merged, load_tokenizer
from stages.prompts.layout import prompts
from stages.prompts.layouts import layout_of
from stages.prompts.log import EventLog
from stages.prompts.settings import PromptParams
from stages.windows.settings import Predictions
from stages.windows.tested import tested


class Params(PromptParams):
    predictions: Predictions


_READ = ("events", "windows", "vocabulary")


def main() -> None:
    args = _parser().parse_args()
    params = read_params(Params, args.params)
    events, windows, vocabulary = (tables.read(table, getattr(args, table)) for table in _READ)
    wanted = tested(events, windows, params.predictions, params.data_seed)
    layout = layout_of(load_tokenizer(args.model), EventLog.from_tables(events, vocabulary), params)
    model = load_merged(args.model)
    found = latency_ms(lambda row: score(model, prompts(layout, [row]), layout.answers, ""), wanted["row"].to_list())
    write_json(args.metrics, {"layout": params.prompt.layout, "context": params.prompt.context, "latency_ms": found})
    console.print(f"{args.model.name}: {found:.1f} ms a window")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m stages.baselines.timing", description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="the settings (default: %(default)s)")
    for table in _READ:
        parser.add_argument(f"--{table}", type=Path, required=True, help=f"table: {tables.CONTENT[table]}")
    parser.add_argument("--model", type=Path, required=True, help="folder with base.json, and an adapter if it has one")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON file for the milliseconds")
    return parser


if __name__ == "__main__":
    run(main)
