import importlib.util
import sys
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from stages.baselines.fitting.sequences import NO_LABEL, Sequences
from stages.baselines.research import library
from stages.baselines.research.command import READ, of_users
from stages.baselines.research.library import OURS, answers, halves, histories, means, write_recbole
from stages.common import tables
from stages.common.errors import UserError
from stages.metrics.bootstrap import paired_difference
from tests.events.helpers import write_params
from tests.small_log import BEHAVIORS, all_behaviors, small_log, small_params, small_windows

LENGTH = 8
INSTALLED = importlib.util.find_spec("recbole") is not None


@pytest.fixture
def sequences(log):
    return Sequences(*log(), LENGTH)


def test_what_chooses_and_what_is_compared_share_no_user(sequences):
    rows = sequences.valid_rows(10_000, 0)
    parts = halves(sequences, rows)
    assert sorted(np.concatenate(parts)) == rows.tolist()
    one, other = (set(sequences.windows(part).user.tolist()) for part in parts)
    assert one and other and not one & other


def test_fewer_users_train_and_all_others_stay(log):
    events, windows, _ = log()
    found = of_users(events, windows, 5)
    assert of_users(events, windows, None).equals(windows)
    user = pl.col("row").map_elements(lambda row: events["user"][row], return_dtype=pl.Int64)
    train = found.filter(pl.col("split") == "train")
    assert train.select(user.n_unique()).item() == 5
    assert train.height == 5 * windows.filter(pl.col("split") == "train").height / 42
    assert found.filter(pl.col("split") != "train").equals(windows.filter(pl.col("split") != "train"))


def test_a_window_is_a_line_of_its_history_and_its_behaviour(sequences, tmp_path):
    rows = sequences.train_rows()
    write_recbole(sequences, {"train": rows, "valid": rows[:3]}, tmp_path / "data")
    header, *lines = (tmp_path / "data" / "windows" / "windows.train.inter").read_text().splitlines()
    assert header == "user_id:token\titem_id_list:token_seq\titem_id:token"
    known, _ = sequences.known(rows)
    assert len(lines) == len(known) < len(rows) + 1 and NO_LABEL not in sequences.windows(known).label[:, -1]
    batch = sequences.windows(known[-1:])
    _, history, label = lines[-1].split("\t")
    assert [int(each) for each in history.split()] == batch.behavior[0, ~batch.padding[0]].tolist()
    assert int(label) == batch.label[0, -1] and len(history.split()) == LENGTH
    assert histories(sequences, rows[:1])[0] == [int(each) for each in lines[0].split("\t")[1].split()]
    assert (tmp_path / "data" / "windows" / "windows.valid.inter").read_text().splitlines() == [header, *lines[:3]]


def test_answers_count_ties_against_the_label():
    found = answers(np.array([[3.0, 1, 2], [2, 2, 0], [0, 0, 0]]), np.array([2, 0, 1]))
    assert found["accuracy"].tolist() == [0, 0, 0]
    assert found["reciprocal rank"].tolist() == [1 / 2, 1 / 2, 1 / 3]
    assert answers(np.array([[3.0, 1, 2]]), np.array([0])) == {"accuracy": [1.0], "reciprocal rank": [1.0]}


def test_two_sides_are_compared_in_the_mean_over_seeds():
    ours = [{"accuracy": np.array([1.0, 0, 1, 0])}, {"accuracy": np.array([1.0, 1, 0, 0])}]
    theirs = [{"accuracy": np.array([0.0, 0, 0, 0])}] * 2
    user, rng = np.array([1, 1, 2, 2]), np.random.default_rng(0)
    gap = paired_difference(means(ours), means(theirs), user, 200, rng)["accuracy"]
    assert gap["difference"] == 0.5 and 0.25 <= gap["low"] < 0.5 < gap["high"] <= 0.75


@pytest.mark.parametrize("name", OURS)
def test_our_side_is_fitted_without_the_library(name, sequences, monkeypatch):
    monkeypatch.setitem(OURS, name, OURS[name].model_copy(update={"epochs": [2], "learning_rate": [0.01]}))
    rows = sequences.valid_rows(40, 0)
    scores = library.fit_ours(name, sequences, rows, 0)(rows[:3])
    assert scores.shape == (3, sequences.size) and np.isfinite(scores).all()


@pytest.mark.skipif(INSTALLED, reason="RecBole is installed")
def test_without_the_library_it_says_how_to_get_it(monkeypatch, tmp_path):
    tables = [word for name in READ for word in (f"--{name}", str(tmp_path / name))]
    monkeypatch.setattr("sys.argv", ["library", *tables])
    with pytest.raises(UserError, match=r"pip install recbole==1\.2\.1"):
        library.main()


def test_the_command_compares_what_is_asked_for_on_as_many_users(log, monkeypatch, tmp_path):
    made, words, asked = dict(zip(READ, log(), strict=True)), [], []
    for name, frame in made.items():
        tables.write(frame, name, tmp_path / f"{name}.parquet")
        words += [f"--{name}", str(tmp_path / f"{name}.parquet")]
    words += ["--params", str(write_params(tmp_path / "params.yaml", small_params(windowing__history=7)))]
    monkeypatch.setitem(sys.modules, "recbole", SimpleNamespace(__version__="0"))
    monkeypatch.setattr(library, "compare", lambda *given: asked.append(given))
    monkeypatch.setattr("sys.argv", ["library", *words, "--users", "3", "--seeds", "4", "5"])
    library.main()
    assert [given[0] for given in asked] == ["SASRec", "BERT4Rec"]
    for _, events, windows, vocabulary, length, seeds in asked:
        assert events.equals(made["events"]) and vocabulary.equals(made["vocabulary"])
        assert windows.equals(of_users(made["events"], made["windows"], 3))
        assert length == 7 and seeds == [4, 5]
    asked.clear()
    monkeypatch.setattr("sys.argv", ["library", *words, "--baseline", "BERT4Rec"])
    library.main()
    assert [(given[0], given[2].equals(made["windows"]), given[5]) for given in asked] == [("BERT4Rec", True, [0])]


@pytest.mark.skipif(not INSTALLED, reason="RecBole is not installed (pip install recbole==1.2.1 'pandas<3')")
@pytest.mark.parametrize("name", OURS)
def test_both_sides_learn_what_follows_what(name, monkeypatch, capsys):
    events = small_log([33] * 40)
    # RecBole draws a behaviour that the history lacks, used or not, and searches for ever where there is none
    turn = [BEHAVIORS[row % 4 if row % 33 else 4 + row % 2] for row in range(len(events))]
    events = events.with_columns(behavior=pl.Series(turn))
    windows = small_windows(events, ["train"] * 30 + ["valid"] * 10)
    quick = {"epochs": [6], "learning_rate": [0.01], "batch_size": [8]}
    monkeypatch.setitem(OURS, name, OURS[name].model_copy(update=quick))
    monkeypatch.setitem(library.THEIRS[name], "train_batch_size", 64)
    library.compare(name, events, windows, all_behaviors(), LENGTH, [0])
    said = capsys.readouterr().out
    one, other = (float(said.split(side)[1].split(",")[0]) for side in ("accuracy: ours ", "RecBole's "))
    assert min(one, other) > 0.95, said
