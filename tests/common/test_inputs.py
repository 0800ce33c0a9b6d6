import re
import sys
from pathlib import Path

import polars as pl
import pytest

from stages.common import tables
from stages.common.errors import UserError
from stages.common.inputs import TABLES, add_training_options, read_tables, stage_parser
from tests.contract.test_pipeline import STAGES

NAMES = ("windows", "pairs")
PATHS = ["--windows", "w.parquet", "--pairs", "p.parquet", "--model", "m", "--out", "o", "--metrics", "x.json"]


@pytest.fixture
def parser():
    parser = stage_parser("dpo", "What it does.", NAMES, model="help of the model", out="help of what comes out")
    add_training_options(parser, 4, "pairs")
    return parser


def test_every_name_is_a_tables():
    assert TABLES.keys() <= tables.SCHEMAS.keys()


def test_paths_come_as_given_and_the_settings_lie_in_the_usual_place(parser):
    args = parser.parse_args([*PATHS, "--history", "h.csv"])
    assert (args.windows, args.pairs, args.model) == (Path("w.parquet"), Path("p.parquet"), Path("m"))
    assert (args.out, args.metrics, args.history) == (Path("o"), Path("x.json"), Path("h.csv"))
    assert args.params == Path("params.yaml") and args.micro_batch == 4


def test_help_explains_every_option(parser):
    text = parser.format_help()
    assert text.startswith("usage: python -m stages.dpo ") and "What it does." in text
    assert "dvc.yaml" in text.split("\n\n")[-1]
    assert [action.dest for action in parser._actions if not action.help] == []
    assert "most pairs in one forward pass: speed and memory only (default: 4)" in " ".join(text.split())


@pytest.mark.parametrize("given", ["0", "-3", "1.5", "two", ""])
def test_a_micro_batch_of_none_is_refused_in_one_line(parser, capsys, given):
    with pytest.raises(SystemExit) as stopped:
        parser.parse_args([*PATHS, "--history", "h.csv", f"--micro-batch={given}"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"python -m stages.dpo: error: argument --micro-batch: {given!r}: a whole number of 1 or more is needed"
    )


def test_tables_are_read_in_the_order_asked_for_and_checked(parser, tmp_path):
    frames = {name: pl.DataFrame(schema=tables.SCHEMAS[name]) for name in NAMES}
    for name, frame in frames.items():
        tables.write(frame, name, tmp_path / f"{name}.parquet")
    given = [word.replace("w.parquet", f"{tmp_path}/windows.parquet").replace("p.parquet", f"{tmp_path}/pairs.parquet")
             for word in PATHS]
    args = parser.parse_args([*given, "--history", "h.csv"])
    for names in (NAMES, NAMES[::-1]):
        assert [frame.columns for frame in read_tables(args, names)] == [frames[name].columns for name in names]
    args.pairs = args.windows
    with pytest.raises(UserError, match="not a table of pairs"):
        read_tables(args, NAMES)


@pytest.mark.parametrize("stage", ["instructions", "sft", "scoring", "dpo", "evaluate"])
def test_the_options_of_a_stage_are_those_that_the_pipeline_gives(stage, monkeypatch, capsys):
    module = __import__(f"stages.{stage}", fromlist=["main"])
    monkeypatch.setattr(sys, "argv", [stage, "--help"])
    with pytest.raises(SystemExit):
        module.main()
    said = set(re.findall(r"^  (--[a-z-]+)", capsys.readouterr().out, re.MULTILINE))
    assert said - {"--micro-batch"} == set(re.findall(r"--[a-z-]+", STAGES[stage]["cmd"]))
