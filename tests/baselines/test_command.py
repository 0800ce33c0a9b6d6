"""What all baselines share: their command lines, and what stands beside their predictions."""

import importlib
import itertools
import json
import re
import time

import polars as pl
import pytest
from ruamel.yaml import YAML

from stages.baselines.fitting.sequences import Sequences
from stages.baselines.fitting.stage import latency_ms
from stages.baselines.fitting.task import tuning_counts
from stages.baselines.sequential import stage
from stages.baselines.systems import sasrec
from stages.common import tables
from stages.common.console import console
from stages.common.errors import UserError
from stages.common.files import DIGITS, read_json
from tests.small_log import small_params

ALL = {"params", "settings", "events", "windows", "vocabulary", "context", "out", "counts"}
OPTIONS = {
    "sasrec": {"objective", "weights", "long"}, "bert4rec": {"weights", "long"}, "gpt2": {"objective", "weights"},
    "pituning": {"objective", "model", "weights"}, "alphafuse": {"model", "weights", "long"},
    "llmesr": {"model", "weights"},
    "llara": {"model", "sasrec", "weights"}, "collm": {"model", "sasrec", "weights"},
    "allmrec": {"model", "sasrec", "weights"}, "tallrec": {"model", "conversations", "weights"}, "api": set(),
}
MODULES = {"api": "api.__main__"}
VALUES = {"dimensions": [8], "blocks": [1], "heads": [1], "dropout": [0.0], "learning_rate": [0.01, 0.001],
          "weight_decay": [0.0], "batch_size": [64], "epochs": [1], "warmup": [0]}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_baselines_command_line_is_that_of_all_and_its_own(name, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"stages.baselines.{MODULES.get(name, f'systems.{name}')}").STAGE.main()
    said = set(re.findall(r"^  --(\w+)", capsys.readouterr().out, re.MULTILINE))
    assert ended.value.code == 0 and said == ALL | OPTIONS[name]


@pytest.fixture
def command(log, tmp_path, monkeypatch):
    """Runs SASRec's command on a log, with so many validation windows, and gives the facts that it wrote."""

    def go(events, windows, vocabulary, valid_windows):
        for name, frame in (("events", events), ("windows", windows), ("vocabulary", vocabulary)):
            tables.write(frame.cast(tables.SCHEMAS[name]), name, tmp_path / f"{name}.parquet")
        with (tmp_path / "settings.yaml").open("w") as file:
            budget = {"trials": 2, "valid_windows": valid_windows, "patience": 1, "windows_per_validation": 1}
            YAML().dump({"budget": budget, "sasrec": VALUES}, file)
        (tmp_path / "params.json").write_text(small_params().model_dump_json(by_alias=True))
        argv = ["sasrec", "--params", tmp_path / "params.json", "--settings", tmp_path / "settings.yaml",
                "--context", "id", "--objective", "ce", "--out", tmp_path / "sasrec.parquet",
                "--counts", tmp_path / "counts.json"]
        for name in ("events", "windows", "vocabulary"):
            argv += [f"--{name}", tmp_path / f"{name}.parquet"]
        monkeypatch.setattr("sys.argv", [*map(str, argv)])
        sasrec.STAGE.main()
        return read_json(tmp_path / "counts.json")

    return go


@pytest.mark.parametrize("most", [40, 5000])
def test_a_baseline_says_what_was_tried_and_on_how_many_windows_it_was_chosen(log, command, monkeypatch, most):
    events, windows, vocabulary = log(users=20)
    valid = windows.filter(pl.col("split") == "valid")["row"].sort()
    unknown = valid.gather_every(3)  # a third of what happens there is no behaviour of the vocabulary
    events = events.with_row_index("row").with_columns(
        behavior=pl.when(pl.col("row").is_in(unknown.implode())).then(pl.lit("new")).otherwise("behavior")
    ).drop("row")
    drawn = []
    valid_rows = Sequences.valid_rows
    monkeypatch.setattr(Sequences, "valid_rows",
                        lambda *args: drawn.append(valid_rows(*args)) or drawn[-1])
    tuning = command(events, windows, vocabulary, most)["tuning"]
    tried = json.loads(tuning["tried"])
    assert tuning["trials"] == len(tried) == 2 and {each["learning_rate"] for each in tried} == {0.01, 0.001}
    assert tuning["score"] == round(max(each["score"] for each in tried), DIGITS)
    (rows,) = drawn
    assert len(rows) == min(most, len(valid))
    assert tuning["valid_windows"] == len(set(rows) - set(unknown)) < len(rows)


def test_where_nothing_can_be_predicted_nothing_is_trained(log, command, monkeypatch):
    events, windows, vocabulary = log(users=20)
    monkeypatch.setattr(stage, "fit", lambda *args: pytest.fail("it was fitted"))
    with pytest.raises(UserError, match="split natural or balanced"):
        command(events, windows.filter(pl.col("split") != "natural"), vocabulary, 40)


def test_all_that_fitting_takes_is_counted(log, command, monkeypatch):
    fit, now = stage.fit, [100.0]
    monkeypatch.setattr("stages.baselines.fitting.stage.time.monotonic", lambda: now[0])

    def slow(*given):
        now[0] += 12.34  # whatever comes before the first setting, too
        return fit(*given)

    monkeypatch.setattr(stage, "fit", slow)
    assert command(*log(users=20), 40)["fit_seconds"] == 12.3


def test_counts_of_tuning_are_the_same_keys_for_all():
    assert tuning_counts({"model": "m"}, [], None, 0) == {
        "settings": {"model": "m"},
        "tuning": {"trials": 0, "valid_windows": 0, "score": None, "tried": "[]"},
    }


def test_latency_is_the_median_and_nothing_is_said_meanwhile(monkeypatch):
    took, now, quiet, asked = itertools.cycle([50, 2, 2, 3, 40]), [0.0], [], []

    def predict_one(row):
        asked.append(row)
        quiet.append(console.quiet)
        now[0] += next(took) / 1000

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    assert latency_ms(predict_one, range(5)) == pytest.approx(3)
    assert asked == list(range(5)) and all(quiet) and not console.quiet
    latency_ms(predict_one, range(10_000))
    assert len(asked) < 200, "a sample of them"
    with pytest.raises(ZeroDivisionError):
        latency_ms(lambda row: 1 / 0, range(5))
    assert not console.quiet
