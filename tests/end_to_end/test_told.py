"""A language model that is told the past: from instructions to predictions, each way of telling, on the tiny model."""

import numpy as np
import polars as pl
import pytest

from stages.common import tables
from stages.common.errors import UserError
from stages.common.tables import PRIOR_TOKENS
from stages.dpo import dpo
from stages.instructions import instructions
from stages.model.load import load_tokenizer, save_adapter
from stages.model.resolve import read_manifest
from stages.predictions import predictions
from stages.scoring import scoring
from stages.serving.language import LanguageModel
from stages.sft import sft
from stages.windows.past import Past
from tests.small_log import all_behaviors, small_log, small_params, small_windows

EVENTS = small_log([30, 30, 20, 20, 15, 15])
WINDOWS = small_windows(EVENTS, ["train"] * 3 + ["valid", "natural", "balanced"])
VOCABULARY = all_behaviors()
CHATS = pl.DataFrame({"turns": [["Hi", "Hello there"]]})
TRAINING = {"epochs": 8, "batch_size": 4, "learning_rate": 2e-2, "validations_per_epoch": 1, "labels": "all",
            "epsilon": 0, "patience": 20}


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    monkeypatch.setenv("BEHAVIORLM_DTYPE", "float32")


def params(**changes):
    return small_params(**{f"sft__{key}": value for key, value in TRAINING.items()} | {"lora__rank": 4} | changes)


@pytest.fixture(scope="module")
def prior():
    """Of every event: what happens has .8, whatever the person does."""
    past, p = Past.from_tables(EVENTS, VOCABULARY), np.full((len(EVENTS), len(VOCABULARY)), 0.04)
    p[np.arange(len(EVENTS)), past.behavior] = 0.8
    return pl.DataFrame({"row": range(len(EVENTS)), "log_p": np.log(p).tolist()}, schema=tables.SCHEMAS["prior"])


def trained(base, folder, prior, **changes):
    """The counts of an SFT, and its adapter's folder."""
    settings = params(**changes)
    made = instructions(EVENTS, WINDOWS, VOCABULARY, CHATS, load_tokenizer(base), settings)[0]
    trainer, counts = sft(made, VOCABULARY, settings, base, folder / "scratch", prior=prior)
    save_adapter(trainer.model, read_manifest(base), folder / "sft")
    return counts, folder / "sft"


@pytest.mark.parametrize("how", ["logits", "vector"])
def test_a_model_learns_what_it_is_told_and_predicts_by_it(tiny_base, tmp_path, prior, how):
    told, adapter = trained(tiny_base, tmp_path / "told", prior, prompt__prior=how)
    untold, alone = trained(tiny_base, tmp_path / "untold", None)
    if how == "logits":
        assert told["first_validation"] < untold["first_validation"], "it begins with what it is told"
    else:  # among all the tokens of a model that knows nothing six labels are few, however they are shifted
        assert told["best_validation"] < untold["best_validation"] - 0.02
    settings = params(prompt__prior=how, predictions__valid_natural=5)
    frame, _ = predictions(EVENTS, WINDOWS, VOCABULARY, settings, adapter, prior)
    usual, _ = predictions(EVENTS, WINDOWS, VOCABULARY, params(predictions__valid_natural=5), alone)
    assert frame.drop("log_p").equals(usual.drop("log_p"))
    of_label = [np.array([row[VOCABULARY["behavior"].to_list().index(label)] for row, label in zip(
        each["log_p"], each["behavior"], strict=True)]) for each in (frame, usual)]
    assert of_label[0].mean() > of_label[1].mean() + 0.1
    total = frame["log_p"].list.eval(pl.element().cast(pl.Float64).exp().sum()).explode()
    np.testing.assert_allclose(total, 1, atol=1e-4)
    scores, _ = scoring(EVENTS, WINDOWS, VOCABULARY, settings, adapter, prior)
    assert scores["p_true"].mean() > 1.2 / len(VOCABULARY)


def test_a_prior_that_says_nothing_changes_no_prediction(tiny_base, tmp_path, prior):
    even = prior.with_columns(log_p=pl.Series([[-np.log(6)] * 6] * len(prior), dtype=tables.FLOATS))
    usual, _ = predictions(EVENTS, WINDOWS, VOCABULARY, params(), tiny_base)
    frame, _ = predictions(EVENTS, WINDOWS, VOCABULARY, params(prompt__prior="logits"), tiny_base, even)
    one, other = (np.stack(each["log_p"].to_numpy()) for each in (usual, frame))
    # labels that share a beginning are one child of it, which counts more than a label alone
    assert np.abs(one - other).max() < 2 * np.log(6) and frame.drop("log_p").equals(usual.drop("log_p"))


def test_counts_in_words_need_no_prior(tiny_base, tmp_path):
    counts, adapter = trained(tiny_base, tmp_path, None, prompt__counts=True)
    assert counts["best_validation"] < counts["first_validation"]
    frame, _ = predictions(EVENTS, WINDOWS, VOCABULARY, params(prompt__counts=True), adapter)
    usual, _ = predictions(EVENTS, WINDOWS, VOCABULARY, params(), adapter)
    assert not frame["log_p"].equals(usual["log_p"])


def test_what_is_missing_or_does_not_fit_is_said(tiny_base, tmp_path, prior):
    settings = params(prompt__prior="vector")
    made = instructions(EVENTS, WINDOWS, VOCABULARY, CHATS, load_tokenizer(tiny_base), settings)[0]
    assert made["train"]["input_ids"].explode().max() >= PRIOR_TOKENS
    with pytest.raises(UserError, match="made with prompt.prior vector, and there is no prior"):
        sft(made, VOCABULARY, params(), tiny_base, tmp_path)
    settings = params(prompt__prior="logits", sft__logit_adjustment=1)
    made = instructions(EVENTS, WINDOWS, VOCABULARY, CHATS, load_tokenizer(tiny_base), settings)[0]
    with pytest.raises(UserError, match="sft.logit_adjustment: 1: not beside prompt.prior logits"):
        sft(made, VOCABULARY, settings, tiny_base, tmp_path, prior=prior)
    with pytest.raises(UserError, match="prior: no row"):
        predictions(EVENTS, WINDOWS, VOCABULARY, params(prompt__prior="logits"), tiny_base, prior[:3])
    pairs = pl.DataFrame(schema=tables.SCHEMAS["pairs"])
    with pytest.raises(UserError, match="prompt.prior: logits: DPO learns"):
        dpo(EVENTS, WINDOWS, VOCABULARY, pairs, params(prompt__prior="logits"), tiny_base, tmp_path, prior=prior)
    for changes, what in (({"prompt__counts": True}, "counts: true"), ({"prompt__prior": "vector"}, "prior: vector")):
        with pytest.raises(UserError, match=f"prompt.{what}: the service tells a language model nothing but"):
            LanguageModel(tiny_base, VOCABULARY, params(**changes))


def test_dpo_goes_on_with_a_model_that_is_told_by_vectors(tiny_base, tmp_path, prior):
    _, adapter = trained(tiny_base, tmp_path / "told", prior, prompt__prior="vector")
    rows = WINDOWS.filter(split="train")["row"][:8]
    chosen = EVENTS["behavior"].gather(rows)
    names = VOCABULARY["behavior"].to_list()
    pairs = pl.DataFrame({"row": rows, "chosen": chosen, "difficulty": 0.5,
                          "rejected": [names[(names.index(each) + 1) % 6] for each in chosen]},
                         schema=tables.SCHEMAS["pairs"])
    settings = params(prompt__prior="vector", dpo__valid_per_behavior=1, dpo__batch_size=4, dpo__epochs=1)
    _, counts = dpo(EVENTS, WINDOWS, VOCABULARY, pairs, settings, adapter, tmp_path / "scratch", prior=prior)
    assert counts["pairs"] == 8 and 0 <= counts["best_validation"] <= 1
