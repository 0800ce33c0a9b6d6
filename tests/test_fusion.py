"""Stage `fusion`: tables of other stages in, one predictor out, its weights by validation users."""

import sys

import numpy as np
import polars as pl
import pytest

from stages.common import tables
from stages.common.checksums import check_folder, seal_folder
from stages.common.errors import UserError
from stages.common.files import DIGITS, read_json, write_json
from stages.evaluate import evaluate
from stages.fusion import STAGE, fusion
from stages.metrics.splits import read_splits
from stages.past.pool import fit_weights, pooled
from stages.past.settings import Fusion
from tests.events.helpers import params_with, write_params
from tests.past.people import two_kinds_of_people

EVENTS, WINDOWS, VOCABULARY = two_kinds_of_people()
PARAMS = params_with(evaluate__resamples=20)
SIZE = len(VOCABULARY)
PARTS = {"habits": 2.0, "sft": 1.0, "dpo": 0.0, "reference/past": 0.5, "reference/markov": 1.5,
         "baselines/sasrec_ce_next": 1.5}
"""How much each predictor knows of the label, in nats; dpo is noise."""


@pytest.fixture(scope="module")
def made_tables():
    """Tables of predictors whose errors have nothing to do with each other, half of the people's windows tested."""
    rng = np.random.default_rng(0)
    split = pl.when(pl.col("split") == "natural").then(pl.lit("natural")).when(pl.col("row") % 3 == 0).then(
        pl.lit("valid_balanced")).otherwise(pl.lit("valid_natural"))
    wanted = WINDOWS.filter(pl.col("split") != "train").with_columns(
        split=split, behavior=EVENTS["behavior"].gather(WINDOWS.filter(pl.col("split") != "train")["row"]))
    label = wanted["behavior"].replace_strict(VOCABULARY["behavior"], np.arange(SIZE), default=None).to_numpy()
    known = np.flatnonzero(~np.isnan(label))
    found = {}
    for name, skill in PARTS.items():
        scores = rng.normal(size=(len(wanted), SIZE))
        scores[known, label[known].astype(int)] += skill
        scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
        found[name] = wanted.with_columns(log_p=pl.Series(values=scores)).cast(tables.SCHEMAS["predictions"])
    return found


@pytest.fixture
def folder(made_tables, tmp_path):
    """`data/predictions`."""
    for name, frame in made_tables.items():
        (path := tmp_path / "predictions" / f"{name}.parquet").parent.mkdir(parents=True, exist_ok=True)
        tables.write(frame, "predictions", path)
    return tmp_path / "predictions"


def models_beside(folder):
    """Folders of models, of which the pool reads the checksums."""
    for name in ("habits", "base", "sft", "dpo"):
        (model := folder.parent / "models" / name).mkdir(parents=True, exist_ok=True)
        write_json(model / "base.json", {"name": name})
        seal_folder(model)
    return folder.parent / "models"


def made(folder, **pool):
    settings = params_with(**{f"fusion__{key}": value for key, value in pool.items()})
    return fusion(EVENTS, VOCABULARY, folder, models_beside(folder), settings)


def loss(split):
    known = split.label >= 0
    return -split.log_p[known, split.label[known]].mean()


def test_the_pool_is_ahead_of_its_parts_and_says_how_they_weigh(folder, made_tables):
    frame, pool, counts = made(folder)
    names = ["habits", "sft", "reference/past"]
    assert list(pool["weights"]) == names and all(weight >= 0 for weight in pool["weights"].values())
    assert pool["weights"]["habits"] > pool["weights"]["reference/past"]
    splits = {name: read_splits(made_tables[name], EVENTS, VOCABULARY) for name in names}
    fused = read_splits(frame, EVENTS, VOCABULARY)
    for name in names:
        assert loss(fused["natural"]) < loss(splits[name]["natural"])
        assert pool["valid_log_loss"][name] == pytest.approx(loss(splits[name]["valid_natural"]), abs=1e-5)
    valid = [splits[name]["valid_natural"] for name in names]
    assert pool["valid_windows"] == (valid[0].label >= 0).sum()
    # with the weights that all of these windows chose no part is ahead; cross-fitted it is a little behind that
    best = pooled([each.log_p for each in valid], np.array(list(pool["weights"].values())))
    within = -best[np.arange(len(valid[0].label)), valid[0].label].mean()
    assert within <= min(pool["valid_log_loss"][name] for name in names) + 1e-4
    assert pool["valid_log_loss"]["fusion"] == pytest.approx(loss(fused["valid_natural"]), abs=1e-5)
    assert pool["valid_log_loss"]["habits"] > pool["valid_log_loss"]["without"] > pool["valid_log_loss"]["fusion"]
    assert within - 1e-6 <= pool["valid_log_loss"]["fusion"] < within + 0.05
    assert all(counts[key] == pool[key] for key in ("weights", "valid_windows", "valid_log_loss"))
    assert counts["windows"] == len(frame)


def test_windows_stay_and_so_do_their_candidates(folder, made_tables):
    frame, _, _ = made(folder)
    assert frame.drop("log_p").equals(made_tables["habits"].sort("split", "row").drop("log_p"))
    lengths = frame["log_p"].list.len()
    assert lengths.min() == SIZE and lengths.max() == SIZE + 2  # what three of them do that nobody in training does
    total = frame["log_p"].list.eval(pl.element().cast(pl.Float64).exp().sum()).explode()
    np.testing.assert_allclose(total, 1, atol=1e-5)


def test_a_validation_window_gets_weights_that_the_other_half_of_the_users_chose(folder, made_tables):
    frame, _, counts = made(folder)
    names = ["habits", "sft", "reference/past"]
    parts = {name: read_splits(made_tables[name].sort("split", "row"), EVENTS, VOCABULARY) for name in names}
    fused = read_splits(frame, EVENTS, VOCABULARY)
    valid = [parts[name]["valid_natural"] for name in names]
    user, label = valid[0].user, valid[0].label
    first = np.isin(user, np.unique(user)[::2])
    for half, found in zip((first, ~first), counts["weights_by_half"], strict=True):
        weights = fit_weights([each.log_p[~half] for each in valid], label[~half])
        assert list(found.values()) == weights.tolist()
        for split in ("valid_natural", "valid_balanced"):
            own = np.isin(fused[split].user, user[half])
            expected = pooled([parts[name][split].log_p[own] for name in names], weights)
            np.testing.assert_allclose(fused[split].log_p[own], expected, atol=1e-5)


def test_no_test_window_has_a_say(folder, made_tables):
    before = made(folder)
    test = pl.col("split") == "natural"
    for name in ("habits", "sft", "reference/past"):
        frame = made_tables[name]
        turned = frame.with_columns(log_p=pl.when(test).then(pl.col("log_p").list.reverse()).otherwise("log_p"))
        tables.write(turned, "predictions", folder / f"{name}.parquet")
    frame, pool, counts = made(folder)
    assert (pool, counts) == before[1:] and not frame.equals(before[0])
    assert frame.filter(~test).equals(before[0].filter(~test))


def test_a_part_that_knows_nothing_weighs_next_to_nothing(folder):
    _, pool, _ = made(folder, model="dpo")
    assert pool["weights"]["dpo"] < 0.1 * pool["weights"]["habits"]
    assert pool["valid_log_loss"]["without"] == pytest.approx(pool["valid_log_loss"]["fusion"], abs=0.01)


@pytest.mark.parametrize("beside", ["reference/markov", "baselines/sasrec_ce_next"])
def test_any_other_table_may_stand_beside(folder, beside):
    frame, pool, _ = made(folder, beside=beside)
    assert list(pool["weights"]) == ["habits", "sft", beside]
    assert not frame.equals(made(folder)[0])


def test_a_pool_has_one_language_model():
    with pytest.raises(ValueError, match="a pool has one language model, 'sft'"):
        Fusion(model="sft", beside="dpo")


@pytest.mark.parametrize("value", ["habits", "sft", "fusion"])
def test_no_part_stands_twice(value):
    with pytest.raises(ValueError, match=f"'{value}' is in the pool already; name another table"):
        params_with(fusion__beside=value)


@pytest.mark.parametrize("value", ["../secret", "/etc/passwd", "reference/past.parquet", ""])
def test_a_part_is_a_table_of_that_folder(value):
    with pytest.raises(ValueError, match="fusion.beside"):
        params_with(fusion__beside=value)


@pytest.mark.parametrize(("name", "pool", "command"), [
    ("habits", {}, "`dvc repro habits` makes it"), ("sft", {}, "`dvc repro predictions@sft` makes it"),
    ("reference/past", {}, "`dvc repro reference` makes it"),
    ("baselines/sasrec_ce_next", {"beside": "baselines/sasrec_ce_next"},
     "`dvc repro stages/baselines/dvc.yaml:evaluate@sasrec_ce_next` makes it"),
    ("somewhere/else", {"beside": "somewhere/else"}, "fusion.beside in params.yaml names a table in that folder"),
])
def test_a_table_that_is_absent_or_of_other_windows_is_named_with_what_makes_it(
    folder, made_tables, name, pool, command
):
    path = folder / f"{name}.parquet"
    path.unlink(missing_ok=True)
    with pytest.raises(UserError, match="no such file, and it is to be pooled") as error:
        made(folder, **pool)
    assert str(error.value).startswith(f"{path}: ") and command in str(error.value)
    if name == "habits":
        return  # the others are compared with it
    path.parent.mkdir(exist_ok=True)
    tables.write(made_tables["dpo"][1:], "predictions", path)
    with pytest.raises(UserError, match="not of the windows that habits.parquet beside it answers") as error:
        made(folder, **pool)
    assert str(error.value).startswith(f"{path}: ") and command in str(error.value)


def test_another_log_is_refused(folder):
    with pytest.raises(UserError, match="made from another log than the events"):
        fusion(EVENTS.with_columns(behavior=pl.lit("a")), VOCABULARY, folder, models_beside(folder), PARAMS)


def test_the_pool_knows_the_models_again_that_it_was_fitted_on(folder):
    first = made(folder)[1]["models"]
    assert list(first) == ["habits", "sft"] and all(len(each) == 64 for each in first.values())
    assert made(folder)[1]["models"] == first and list(made(folder, model="dpo")[1]["models"]) == ["dpo", "habits"]
    (folder.parent / "models" / "sft" / "base.json").write_text("{}")
    with pytest.raises(UserError, match="damaged"):
        fusion(EVENTS, VOCABULARY, folder, folder.parent / "models", PARAMS)


def test_without_validation_windows_all_weigh_alike(folder, made_tables):
    for name, frame in made_tables.items():
        tables.write(frame.filter(split="natural"), "predictions", folder / f"{name}.parquet")
    frame, pool, counts = made(folder)
    assert list(pool["weights"].values()) == pytest.approx([1 / 3] * 3) and pool["valid_windows"] == 0
    assert set(pool["valid_log_loss"].values()) == {None} and len(frame) == counts["windows"]


def test_main_writes_what_evaluate_reads_and_a_sealed_folder(folder, tmp_path, monkeypatch, capsys):
    for name, frame in (("events", EVENTS), ("vocabulary", VOCABULARY)):
        tables.write(frame, name, tmp_path / f"{name}.parquet")
    paths = {"events": tmp_path / "events.parquet", "vocabulary": tmp_path / "vocabulary.parquet",
             "predictions": folder, "models": models_beside(folder),
             "params": write_params(tmp_path / "params.yaml", PARAMS),
             "out": folder / "fusion.parquet", "counts": tmp_path / "counts.json",
             "weights": tmp_path / "models/fusion"}
    monkeypatch.setattr(sys, "argv", ["fusion", *(part for name, path in paths.items()
                                                  for part in (f"--{name}", str(path)))])
    STAGE.main()
    frame, pool, counts = made(folder)
    assert tables.read("predictions", paths["out"]).equals(frame)
    write_json(tmp_path / "expected.json", counts, DIGITS)
    assert read_json(paths["counts"]) == read_json(tmp_path / "expected.json")
    check_folder(paths["weights"])
    assert read_json(paths["weights"] / "fusion.json")["weights"] == pool["weights"]
    assert "weights habits" in " ".join(capsys.readouterr().err.split())
    headline, metrics, _ = evaluate(EVENTS, VOCABULARY, frame, read_json(paths["counts"]), PARAMS)
    assert metrics["layout"] == "past" and headline["loss"] > 0
