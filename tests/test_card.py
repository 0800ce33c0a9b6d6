"""An adapter's card can be read by the hub's own library, and says where the adapter comes from."""

import json

import pytest
from huggingface_hub import ModelCard

from stages.card import card, lineage, pool_card, read_and_describe
from stages.common.errors import UserError
from stages.common.files import write_json
from stages.model.resolve import Manifest
from tests.events.helpers import params_with

MANIFEST = Manifest(name="org/model", source="hub", revision="0" * 40, sha256="1" * 64, license="apache-2.0")
ADAPTER = {"r": 8, "lora_alpha": 16}


def out(path: str, digest: str) -> dict:
    return {"path": path, "md5": digest}


LOCK = {
    "dpo": {"deps": [out("models/sft", "44"), out("data/pairs.parquet", "55"), out("stages/dpo.py", "00")],
            "params": {"params.yaml": {"dpo": {"beta": 0.1}, "seed": 3}}, "outs": [out("models/dpo", "66")]},
    "sft": {"deps": [out("data/events.parquet", "22")], "params": {"params.yaml": {"sft": {"labels": "anchors"}}},
            "outs": [out("models/sft", "44")]},
    "selection": {"deps": [out("models/sft", "44")], "outs": [out("data/pairs.parquet", "55")]},
    "ingest": {"deps": [out("/home/somebody/secret/log.csv", "11")],
               "params": {"params.yaml": {"source": {"format": "table"}}}, "outs": [out("data/events.parquet", "22")]},
    "reference": {"deps": [], "outs": [out("data/predictions/reference", "99")]},
}


def values(**numbers: float | None) -> dict:
    keys = dict.fromkeys(("rec_w", "prec_w", "log_loss", "overall", "head", "medium", "tail"), 0.5) | numbers
    return keys | {"windows": 7, "users": 3, "interval": {key: {"low": 0.25, "high": 0.75} for key in keys}}


def metrics() -> dict:
    both = {"natural": values(), "balanced": values(head=None, tail=0.125)}
    return both | {"adjusted": {"tau": 0.875, "natural": values(), "balanced": values(tail=0.25)}}


def made(manifest: Manifest = MANIFEST, **changes) -> str:
    return card("dpo", manifest, ADAPTER, metrics(), LOCK, params_with(**({"source__format": "table"} | changes)))


def test_the_hubs_library_reads_base_licence_and_results():
    data = ModelCard(made()).data
    assert (data.base_model, data.library_name, data.license) == ("org/model", "peft", "apache-2.0")
    found = {(result.dataset_split, result.metric_type): result.metric_value for result in data.eval_results}
    assert found["balanced", "tail"] == 0.125 and found["natural", "rec_w"] == 0.5
    assert ("balanced", "head") not in found, "what could not be measured is left out"
    assert {result.dataset_type for result in data.eval_results} == {"table"}


def test_windows_that_nobody_can_get_right_and_too_few_users_are_said_below_the_table():
    both = {name: section | {"outside_candidates": 4} if name == "natural" else section
            for name, section in metrics().items()}
    text = card("dpo", MANIFEST, ADAPTER, both, LOCK, params_with(source__format="table"))
    assert "57.1 % of the natural windows are of behaviours that neither a training user nor the person did" in text
    assert "Intervals over 3 users in the natural test set and 3 users in the balanced test set: under 10" in text
    (natural,) = {result.dataset_args["outside_candidates"] for result in ModelCard(text).data.eval_results
                  if result.dataset_split == "natural"}
    assert natural == 4


def test_the_lineage_is_what_the_adapter_follows_from_and_in_order():
    assert list(lineage(LOCK, "models/dpo")) == ["ingest", "sft", "selection", "dpo"]
    assert list(lineage(LOCK, "models/sft")) == ["ingest", "sft"]


def test_the_text_has_metrics_with_intervals_settings_and_digests():
    text = made()
    assert "| balanced | tail | 0.125 (0.250–0.750) | 0.250 (0.250–0.750) |" in text
    assert "| balanced | head | — | 0.500 (0.250–0.750) |" in text
    assert "τ = 0.875" in text and "models/sft `44`" in text and "stages/dpo.py" not in text
    settings = json.loads(made(seed=3, sft__epsilon=0.25).split("```json\n")[1].split("```")[0])
    assert (settings["seed"], settings["sft.epsilon"], settings["dpo.beta"]) == (3, 0.25, 0.1)
    assert not any(key.startswith("selection.") for key in settings), "only what the adapter follows from"


def test_no_path_of_the_machine_is_in_it():
    folder = Manifest(name="/home/somebody/secret/model", source="folder", revision="", sha256="1", license="unknown")
    assert "secret" not in made(folder, auxiliary__source="/home/somebody/secret/chats.json")
    assert "base_model: model" in made(folder) and "| ingest | log.csv `11`" in made(folder)


def test_a_simulated_log_is_called_simulated():
    assert "**simulated**" in made(source__format="simulated")
    assert "**simulated**" not in made()


POOL = {"weights": {"habits": 0.75, "sft": 0.25, "reference/past": 0.0, "baselines/x": 0.1}, "valid_windows": 1234,
        "valid_log_loss": {"habits": 1.5, "sft": 2.25, "reference/past": None, "baselines/x": 3.0, "fusion": 1.375,
                           "without": 1.4375}}
POOLED = LOCK | {
    "habits": {"params": {"params.yaml": {"habits": {"hidden": 32}, "seed": 3, "source": {"path": "/home/somebody"}}},
               "deps": [out("data/events.parquet", "22")],
               "outs": [out("models/habits", "77"), out("data/predictions/habits.parquet", "78")]},
    "predictions@sft": {"deps": [out("models/sft", "44")], "outs": [out("data/predictions/sft.parquet", "45")]},
    "fusion": {"params": {"params.yaml": {"fusion": {"model": "sft"}}},
               "deps": [out("data/predictions/habits.parquet", "78"), out("data/predictions/sft.parquet", "45")],
               "outs": [out("models/fusion", "88")]},
}


def test_a_pools_card_says_what_is_in_it_and_what_the_language_model_adds():
    text = pool_card(POOL, metrics(), POOLED, "table")
    data = ModelCard(text).data
    assert data.model_name == "BehaviorLM habits and language model, pooled" and data.library_name is None
    assert {result.dataset_type for result in data.eval_results} == {"table"}
    assert "| habits | `models/habits`, a small network" in text and "| 0.750 | 1.500 |" in text
    assert "| baselines/x | a baseline's predictions | 0.100 | 3.000 |" in text and "| 0.000 | — |" in text
    assert "| all | the pool | — | 1.375 |\n| without the language model | a pool of the others | — | 1.438 |" in text
    assert "1,234 natural windows of validation users" in text and "τ = 0.875" in text
    assert "| balanced | tail | 0.125 (0.250–0.750) | 0.250 (0.250–0.750) |" in text
    assert "models/habits `77`" in text and "models/sft `44`" in text
    assert "models/dpo" not in text.split("## Lineage")[1]
    settings = json.loads(text.split("```json\n")[1].split("```")[0])
    assert settings == {"habits.hidden": 32, "fusion.model": "sft", "sft.labels": "anchors"}
    assert "somebody" not in text and "**simulated**" not in text
    assert "**simulated**" in pool_card(POOL, metrics(), POOLED, "simulated")


def test_the_folder_says_whose_card_it_is(tmp_path):
    (folder := tmp_path / "fusion").mkdir()
    write_json(folder / "fusion.json", POOL)
    (lock := tmp_path / "dvc.lock").write_text(json.dumps({"stages": POOLED}))
    found = read_and_describe(folder, metrics(), lock, params_with(source__format="table"))
    assert found == pool_card(POOL, metrics(), POOLED, "table")
    with pytest.raises(UserError, match="no stage has written models/fusion; run `dvc repro`"):
        read_and_describe(folder, metrics(), tmp_path / "none.lock", params_with())


def test_an_adapter_that_no_stage_wrote_is_refused():
    with pytest.raises(UserError, match="no stage has written models/dpo; run `dvc repro`"):
        card("dpo", MANIFEST, ADAPTER, metrics(), {"sft": LOCK["sft"]}, params_with())
