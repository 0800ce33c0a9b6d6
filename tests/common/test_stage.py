"""What every stage shares: the command line made of its declaration, reading, writing, and what a mistake leaves."""

import json
import re
import sys
from importlib import import_module
from pathlib import Path

import polars as pl
import pytest

from stages.common import launch, tables
from stages.common.checkpoints import checkpoint_folder
from stages.common.errors import UserError
from stages.common.params import Section, Seed
from stages.common.stage import (
    CODE, COUNTS, Stage, at_least_1, csv, csv_folder, json_folder, optional, place, streamed_table, table, table_folder,
    text,
)
from tests.contract.imports import ROOT
from tests.contract.test_pipeline import MAIN, STAGES

WINDOWS = pl.DataFrame({"row": [3, 5], "split": ["train", "valid"]}, schema=tables.SCHEMAS["windows"])


class Params(Section):
    seed: Seed


def count(windows, params, twice=1):
    return windows.reverse(), {"rows": windows.height * twice, "seed": params.seed}


OPTIONS = {"twice": {"type": at_least_1, "default": 1, "metavar": "N", "help": "how often (default: %(default)s)"}}


def stage(**changes):
    declared = {
        "name": "count", "description": "What it does.", "compute": count, "params": Params,
        "reads": {"windows": table("windows")}, "writes": {"out": table("windows"), "counts": COUNTS},
        "options": OPTIONS, "message": lambda args, out, counts: f"{args.out.stem}: {counts['rows']} [rows]",
    }
    return Stage(**(declared | changes))


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a stage in an empty folder with the repository's params and a table `windows`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BEHAVIORLM_CACHE", str(tmp_path / "cache"))
    Path("params.yaml").write_text((ROOT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    tables.write(WINDOWS, "windows", Path("w.parquet"))

    def run_stage(declared, *more, out="o.parquet"):
        words = [word for name in declared.reads for word in (f"--{name}", "w.parquet")]
        words += [word for name in declared.writes for word in (f"--{name}", f"{name}.json" if name != "out" else out)]
        monkeypatch.setattr(sys, "argv", [declared.name, *words, *more])
        declared.main()

    return run_stage


def test_what_is_read_reaches_the_function_and_what_it_returns_is_written(run, capsys):
    run(stage(), "--twice", "2")
    assert tables.read("windows", Path("o.parquet")).equals(WINDOWS.reverse())
    assert json.loads(Path("counts.json").read_text()) == {"rows": 4, "seed": 0}
    assert capsys.readouterr().err == "o: 4 [rows]\n"


def test_a_stage_with_one_output_returns_it(run):
    run(stage(compute=lambda windows, params, twice: "text", writes={"out": text("a text")}, message=None), out="o.md")
    assert Path("o.md").read_text() == "text"


def test_what_is_optional_may_be_left_out(run, monkeypatch):
    seen = []

    def compute(windows, hint, params, twice):
        seen.append(hint)
        return windows, "more"

    declared = stage(compute=compute, reads={"windows": table("windows"), "hint": optional(place("a hint"))},
                     writes={"out": table("windows"), "more": optional(text("more"))}, message=None)
    for words in ([], ["--hint", "h", "--more", "m.txt"]):
        monkeypatch.setattr(sys, "argv", ["count", "--windows", "w.parquet", "--out", "o.parquet", *words])
        declared.main()
        assert Path("m.txt").exists() == bool(words)
    assert seen == [None, Path("h")]


def test_a_stage_of_another_pipeline_names_it_and_one_of_none_names_none():
    assert "`dvc repro` runs" in stage().parser().format_help()
    assert "`dvc repro b/dvc.yaml` runs" in stage(pipeline="b/dvc.yaml").parser().format_help()
    assert "dvc repro" not in stage(pipeline="").parser().format_help()


def test_of_processes_that_share_the_work_the_first_writes(run, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    run(stage(shares=True))
    assert not Path("o.parquet").exists() and not Path("counts.json").exists()


@pytest.mark.parametrize("number", [0, 1])
def test_what_several_processes_cannot_share_the_first_does_alone(run, monkeypatch, capsys, number):
    for name, value in {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    seen = []

    def compute(**given):
        seen.append((launch.count(), launch.number()))
        return count(**given)

    run(stage(compute=compute))
    assert seen == [(1, 0)] * (number == 0), "for it and for the libraries it is alone"
    assert Path("o.parquet").exists() == (number == 0)
    assert capsys.readouterr().err.splitlines()[0] == "count: one process does this, and the 1 beside it nothing"


def test_what_fails_leaves_neither_a_streamed_table_nor_the_others(run):
    def fails(windows, oracle, params, twice):
        tables.write(pl.DataFrame(schema=tables.SCHEMAS["oracle"]), "oracle", oracle)
        raise UserError("no")

    writes = {"out": table("windows"), "oracle": streamed_table("oracle")}
    with pytest.raises(UserError):
        run(stage(compute=fails, writes=writes))
    assert sorted(path.name for path in Path().iterdir()) == ["params.yaml", "w.parquet"]

    def streams(windows, oracle, params, twice):
        tables.write(pl.DataFrame(schema=tables.SCHEMAS["oracle"]), "oracle", oracle)
        return windows

    run(stage(compute=streams, writes=writes, message=None))
    assert tables.read("oracle", Path("oracle.json")).is_empty() and Path("o.parquet").exists()


def test_folders_are_written_whole(run):
    frame = pl.DataFrame({"x": [1 / 3]})
    made = {"a": {"n": 1}}, {"b": frame}, {"c": WINDOWS}
    writes = {"out": json_folder("f"), "plots": csv_folder("g"), "tables": table_folder("windows", "h"),
              "plot": csv("i")}
    run(stage(compute=lambda **given: (*made, frame), writes=writes, message=None), out="o")
    assert json.loads(Path("o/a.json").read_text()) == {"n": 1}
    assert Path("plots.json/b.csv").read_text() == Path("plot.json").read_text() == "x\n0.333333\n"
    assert writes["tables"].read(Path("tables.json"))["c"].equals(WINDOWS)
    for absent in (writes["tables"], table_folder("windows", "h", ["c", "d"])):
        with pytest.raises(UserError, match=r"(absent|d\.parquet): no such file; `dvc repro` makes it"):
            absent.read(Path("absent" if absent is writes["tables"] else "tables.json"))


def test_a_lazy_table_is_read_while_the_function_computes_and_its_faults_are_ours(run):
    lazy = stage(reads={"windows": table("windows", lazy=True)}, message=None,
                 compute=lambda windows, params, twice: (windows.collect(), {}))
    run(lazy)
    assert tables.read("windows", Path("o.parquet")).equals(WINDOWS)
    Path("w.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(UserError, match="not a readable Parquet file"):
        run(lazy)


def test_an_interrupted_stage_finds_its_folder_again_and_a_finished_one_leaves_none(run):
    seen = []

    def resumes(windows, params, scratch, twice):
        seen.append(scratch)
        scratch.mkdir(parents=True, exist_ok=True)
        if len(seen) < 3:
            raise KeyboardInterrupt
        return windows, {}

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(stage(compute=resumes, resumes=True, message=None))
    Path("counts.json").mkdir()
    with pytest.raises(OSError):
        run(stage(compute=resumes, resumes=True, message=None))
    assert seen[0].exists(), "it goes only when all is written"
    Path("counts.json").rmdir()
    run(stage(compute=resumes, resumes=True, message=None))
    assert seen[0] == seen[1] == seen[2] and not seen[0].exists() and seen[0].parent.name == "checkpoints"
    tables.write(WINDOWS.reverse(), "windows", Path("w.parquet"))
    run(stage(compute=resumes, resumes=True, message=None))
    assert seen[-1] != seen[0], "other inputs"
    assert CODE == ROOT / "stages"


def test_checkpoints_lie_in_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("BEHAVIORLM_CACHE", str(tmp_path))
    assert checkpoint_folder("sft", "abc") == tmp_path / "checkpoints" / "sft-abc"


def test_a_fault_in_another_stages_section_shows_before_any_work(run):
    path = Path("params.yaml")
    path.write_text(path.read_text(encoding="utf-8").replace("  beta: 0.1", "  beta: -1"), encoding="utf-8")
    with pytest.raises(UserError, match="dpo.beta: -1"):
        run(stage(compute=lambda **given: pytest.fail("it worked")))


def test_help_explains_every_option():
    words = " ".join(stage().parser().format_help().split())
    assert words.startswith("usage: python -m stages.count ") and "What it does." in words and "dvc.yaml" in words
    assert "which events are targets, and their splits" in words and "how often (default: 1)" in words
    assert [action.dest for action in stage().parser()._actions if not action.help] == []


@pytest.mark.parametrize("given", ["0", "-3", "1.5", "two", ""])
def test_a_number_of_none_is_refused_in_one_line(capsys, given):
    with pytest.raises(SystemExit) as stopped:
        stage().parser().parse_args(["--windows", "w", "--out", "o", "--counts", "c", f"--twice={given}"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"python -m stages.count: error: argument --twice: {given!r}: a whole number of 1 or more is needed"
    )


@pytest.mark.parametrize("name", MAIN)
def test_the_options_of_a_stage_are_those_that_the_pipeline_gives(name):
    parser = import_module(f"stages.{name}").STAGE.parser()
    said = set(re.findall(r"^  (--[a-z-]+)", parser.format_help(), re.MULTILINE))
    assert said - {"--micro-batch", "--lock"} == set(re.findall(r"--[a-z-]+", STAGES[name]["cmd"]))


def test_every_tables_content_is_described():
    assert tables.CONTENT.keys() == tables.SCHEMAS.keys() - {"instructions"}
    assert place("a folder").read(Path("x")) == Path("x")
