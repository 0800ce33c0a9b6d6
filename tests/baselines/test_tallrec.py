import numpy as np
import polars as pl
import pytest
import torch
from ruamel.yaml import YAML

from stages.baselines.language.baseline import predictions
from stages.baselines.language.training import mean_loss
from stages.baselines.systems import tallrec
from stages.baselines.systems.tallrec import TALLRec
from stages.common import tables
from stages.common.errors import UserError
from stages.common.files import read_json
from stages.windows import tested as choice
from tests.baselines.language import ADAPTED, settings_of, small_task

SETTINGS = ADAPTED | {"chat_learning_rate": [0.01], "chat_epochs": [2], "chat_batch_size": 2}
CHATS = pl.DataFrame({"turns": [["What would you like to do tomorrow?", "I do not know yet."]] * 6})


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    monkeypatch.setenv("BEHAVIORLM_DTYPE", "float32")


def made(loud_base, folder, trials=1, conversations=CHATS, layout="stream", **changes):
    settings = {name: value for name, value in changes.items() if "__" not in name}
    params = {name: value for name, value in changes.items() if "__" in name}
    task = small_task(folder, "tallrec", SETTINGS | settings, trials, prompt__layout=layout, **params)
    return TALLRec(task, loud_base, conversations)


def test_stage_2_begins_with_the_model_of_stage_1(loud_base, tmp_path):
    baseline = made(loud_base, tmp_path)
    settings = settings_of(baseline)
    baseline.build(settings)
    untuned = mean_loss(baseline.model, baseline.valid), mean_loss(baseline.model, baseline.valid_chats)
    baseline.first_stage("chats", settings, "chat_", baseline.chats, baseline.valid_chats)
    instructed = mean_loss(baseline.model, baseline.valid)
    adapter = {name: weight.clone() for name, weight in baseline.weights().items()}
    assert mean_loss(baseline.model, baseline.valid_chats) < untuned[1] - 0.1, "stage 1 learns the conversations"
    assert abs(instructed - untuned[0]) > 1e-4, "and changes the model"
    facts = baseline.learn(settings)
    assert facts["first_loss"] == pytest.approx(instructed, rel=1e-6)
    assert facts["loss"] < facts["first_loss"] - 0.05 and facts["step"] > 0
    assert baseline.weights().keys() == adapter.keys()
    assert any(not torch.equal(weight, adapter[name]) for name, weight in baseline.weights().items())


def test_the_adapter_is_on_queries_and_values_only(loud_base, tmp_path):
    baseline = made(loud_base, tmp_path)
    baseline.build(settings_of(baseline))
    adapted = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in baseline.weights()}
    assert adapted == {"q_proj", "v_proj"}


def test_stage_1_is_trained_once_for_settings_that_share_it(loud_base, tmp_path, monkeypatch):
    baseline = made(loud_base, tmp_path, trials=2, learning_rate=[0.02, 1e-9], epochs=[2])
    found = baseline.fit()
    assert len(baseline._first_stages) == 1
    assert len({trial["first_loss"] for trial in found.trials}) == 1 and len(found.trials) == 2
    assert found.settings["learning_rate"] == 0.02 and found.score > found.trials[1]["score"]
    assert mean_loss(baseline.model, baseline.valid) == pytest.approx(found.trials[0]["loss"], rel=1e-5)


@pytest.mark.parametrize("layout", ["stream", "window"])
def test_predictions_in_either_layout(loud_base, tmp_path, layout):
    baseline = made(loud_base, tmp_path, layout=layout, instructions__train_targets=8, instructions__valid_targets=4)
    task = baseline.task
    wanted = choice.tested(task.events, task.windows, task.params.predictions, 0).head(4)
    frame, facts = predictions(baseline.fit(), task, wanted)
    assert frame.schema == tables.SCHEMAS["predictions"] and facts["layout"] == layout
    np.testing.assert_allclose(np.exp(np.array(frame["log_p"].to_list())).sum(axis=1), 1, atol=1e-5)


def test_a_single_conversation_is_refused(loud_base, tmp_path):
    with pytest.raises(UserError, match="conversations: 1"):
        made(loud_base, tmp_path, conversations=CHATS.head(1))


def test_the_command_writes_predictions_metrics_and_weights(loud_base, tmp_path, monkeypatch):
    task = small_task(tmp_path, "tallrec", SETTINGS, instructions__train_targets=8, instructions__valid_targets=4)
    paths = {name: tmp_path / f"{name}.parquet" for name in ("events", "windows", "vocabulary", "conversations")}
    for name, frame in zip(paths, (task.events, task.windows, task.vocabulary, CHATS), strict=True):
        tables.write(frame, name, paths[name])
    with open(tmp_path / "params.yaml", "w") as out:
        YAML().dump(task.params.model_dump(by_alias=True), out)
    options = {**paths, "params": tmp_path / "params.yaml", "settings": task.settings_file, "context": "history",
               "model": loud_base, "out": tmp_path / "tallrec.parquet", "counts": tmp_path / "tallrec.json",
               "weights": tmp_path / "tallrec"}
    monkeypatch.setattr("sys.argv", ["tallrec", *(part for k, v in options.items() for part in (f"--{k}", str(v)))])
    tallrec.STAGE.main()
    frame, facts = tables.read("predictions", options["out"]), read_json(options["counts"])
    assert len(frame) == facts["windows"] > 0 and facts["context"] == "history"
    assert facts["tuning"]["trials"] == 1 and facts["settings"]["rank"] == 4
    assert (options["weights"] / "adapter_model.safetensors").exists()
