import json
import subprocess
import sys
from datetime import datetime, timedelta

import polars as pl
import pytest

from stages.common import tables
from stages.common.errors import UserError
from stages.common.hashing import pseudonym
from stages.windowing import windowing
from stages.windows.cut import split_users
from tests.events.helpers import ROOT, params_with, write_params


def log(lengths, behaviors=("a", "b", "c")):
    """Events of one user for each length, an hour apart."""
    start = datetime(2024, 3, 1)
    rows = [(pseudonym(str(user)), start + timedelta(hours=k), "home", behaviors[k % len(behaviors)], None)
            for user, length in enumerate(lengths) for k in range(length)]
    return pl.DataFrame(rows, schema=tables.SCHEMAS["events"], orient="row").sort("user", "time")


def test_tables_and_metrics_agree():
    events = log([30] * 60 + [3] * 5)
    params = params_with(windowing__natural=20, windowing__balanced_per_behavior=50)
    made, vocabulary, _, metrics = windowing(events, params)
    made = made.collect()
    assert tables.check(made, "windows", "x").equals(made)
    assert tables.check(vocabulary, "vocabulary", "x").equals(vocabulary)
    assert metrics["windows"] == dict(made["split"].value_counts().iter_rows())
    assert metrics["users"]["too_short"] == 5
    assert metrics["too_short"] == pytest.approx({"users": 5, "share_of_users": 5 / 65, "events": 15,
                                                  "share_of_events": 15 / 1815})
    assert sum(metrics["users"].values()) == 65
    assert metrics["windows"]["train"] == 25 * metrics["users"]["train"]
    assert metrics["behaviors"] == 3 == metrics["head"] == metrics["anchors"]
    had = metrics["balanced_shortfall"]["had"]
    assert metrics["balanced_shortfall"]["wanted"] == 50
    assert sum(had.values()) == metrics["windows"]["balanced"] or len(had) < 3
    json.dumps(metrics, allow_nan=False)


def test_a_label_that_only_test_users_know_is_reported():
    events = log([30] * 40)
    test = pl.Series(split_users(events["user"].to_numpy(), 0) == "test")
    renamed = test & (pl.col("behavior") == "a")
    events = events.with_columns(behavior=pl.when(renamed).then(pl.lit("z")).otherwise("behavior"))
    _, vocabulary, _, metrics = windowing(events, params_with())
    assert "z" not in vocabulary["behavior"]
    assert metrics["out_of_vocabulary"]["by_behavior"] == {"z": metrics["out_of_vocabulary"]["windows"]}
    assert metrics["out_of_vocabulary"]["windows"] > 0
    outside = metrics["out_of_vocabulary"]["natural"]
    assert outside > 0 and metrics["out_of_vocabulary"]["natural_share"] == outside / metrics["windows"]["natural"]


def test_what_is_left_out_or_never_right_is_said(tmp_path):
    """Printed lines: of one real log 58 % of the people were too short, of another 57 % of the windows outside."""
    events = log([30] * 40 + [3] * 20)
    user = events["user"].to_numpy()
    test = pl.Series(split_users(user, 0) == "test")
    train = pl.Series(split_users(user, 0) == "train")
    events = events.with_columns(behavior=pl.when(test & (pl.col("behavior") == "a")).then(pl.lit("z")).when(
        train & (pl.col("behavior") == "b")).then(pl.lit("d")).otherwise("behavior"))
    tables.write(events, "events", tmp_path / "e.parquet")
    done = run(tmp_path, params_with(), tmp_path / "e.parquet")
    assert done.returncode == 0, done.stderr
    counts = json.loads((tmp_path / "m.json").read_text())
    outside, short = counts["out_of_vocabulary"], counts["too_short"]
    assert "d" in counts["balanced_shortfall"]["without"]
    said = " ".join(done.stderr.split())
    assert f"{outside['natural']} natural windows ({outside['natural_share']:.1%}) are of behaviours that no" in said
    assert f"{short['users']} users ({short['share_of_users']:.1%}) with {short['share_of_events']:.1%} of the" in said
    assert "behaviours have no balanced window: " in said and " d" in said.partition("no balanced window:")[2]


def test_where_nothing_is_left_out_one_line_is_printed(tmp_path):
    tables.write(log([30] * 60), "events", tmp_path / "e.parquet")
    done = run(tmp_path, params_with(), tmp_path / "e.parquet")
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(("lengths", "says"), [
    ([4, 5, 5], "no user is long enough: a window needs 6 events of one user, the longest has 5.*min_history"),
    ([30], "1 of 1 users have the 6 events.*at least 3"),
    ([30, 30, 2], "2 of 3 users"),
    ([30, 30, 30], r"split .* got none of the 3 users that are long enough \(data_seed 0\).*set data_seed to \d+"),
])
def test_too_few_users(lengths, says):
    with pytest.raises(UserError, match=says):
        windowing(log(lengths), params_with())


def test_the_seed_that_the_error_names_works():
    with pytest.raises(UserError) as error:
        windowing(log([30] * 3), params_with())
    seed = int(str(error.value).split("set data_seed to ")[1].split(",")[0])
    made, *_ = windowing(log([30] * 3), params_with(data_seed=seed))
    assert made.collect()["split"].n_unique() == 4


def test_one_behaviour():
    with pytest.raises(UserError, match="only one behaviour, 'a'.*source.taxonomy"):
        windowing(log([30] * 40, ["a"]), params_with())


def test_more_behaviours_than_a_prompt_can_name_are_refused_here():
    """It was found out by `instructions`, after the conversations had been made: logs of 482 to 2,040 names."""
    events = log([900] * 20, [f"Visiting venue {number}" for number in range(600)])
    with pytest.raises(UserError, match=r"600 behaviours of the training users alone take .* tokens.*source.top"):
        windowing(events, params_with())
    assert windowing(events, params_with(prompt__max_tokens=4096))[1].height == 600


def run(tmp_path, params, events):
    return subprocess.run(
        [sys.executable, "-m", "stages.windowing", "--params", str(write_params(tmp_path / "params.yaml", params)),
         "--events", str(events), "--out", str(tmp_path / "w.parquet"), "--vocabulary", str(tmp_path / "v.parquet"),
         "--counts", str(tmp_path / "m.json"), "--plot", str(tmp_path / "f.csv")],
        cwd=ROOT, capture_output=True, text=True, check=False)


def test_command(tmp_path):
    tables.write(log([30] * 40), "events", tmp_path / "e.parquet")
    done = run(tmp_path, params_with(), tmp_path / "e.parquet")
    assert done.returncode == 0, done.stderr
    windows = tables.read("windows", tmp_path / "w.parquet")
    assert json.loads((tmp_path / "m.json").read_text())["windows"]["train"] == windows.filter(split="train").height
    vocabulary = tables.read("vocabulary", tmp_path / "v.parquet")
    assert vocabulary.height == 3
    shares = pl.read_csv(tmp_path / "f.csv")
    assert shares["behavior"].to_list() == vocabulary["behavior"].to_list() and shares["rank"].to_list() == [1, 2, 3]
    assert shares["share"].to_list() == pytest.approx(vocabulary["share"].to_list(), abs=1e-6)
    assert ((shares["kind"] == "anchor") == vocabulary["is_anchor"]).all()


def test_command_fails_without_a_traceback(tmp_path):
    tables.write(log([2] * 40), "events", tmp_path / "e.parquet")
    done = run(tmp_path, params_with(), tmp_path / "e.parquet")
    assert done.returncode == 1 and "no user is long enough" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "w.parquet").exists() and not (tmp_path / "m.json").exists()
