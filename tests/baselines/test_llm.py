import copy

import numpy as np
import polars as pl
import pytest
import torch

from stages.baselines.language import training as llm_training
from stages.baselines.language.baseline import Fitted, predictions, write_weights
from stages.baselines.language.training import Plan, mean_loss, merged, reciprocal_rank, summed_loss, train
from stages.baselines.systems.tallrec import TALLRec
from stages.common.errors import UserError
from stages.instructions import instructions
from stages.model.likelihood import score
from stages.model.load import load_base, load_merged
from stages.model.readers import make_reader
from stages.training.sequences import IGNORED
from stages.training.trainer import WarmupCosine
from tests.baselines.language import settings_of, small_task
from tests.baselines.test_tallrec import CHATS, SETTINGS


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    monkeypatch.setenv("BEHAVIORLM_DTYPE", "float32")


@pytest.fixture(scope="module")
def baseline(loud_base, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BEHAVIORLM_DTYPE", "float32")
        baseline = TALLRec(small_task(tmp_path_factory.mktemp("llm"), "tallrec", SETTINGS), loud_base, CHATS)
        baseline.build(settings_of(baseline))
        yield baseline


def plan(**changes):
    return Plan(**({"learning_rate": 0.01, "weight_decay": 0.0, "batch_size": 2, "epochs": 1, "warmup": 0.2,
                    "least_rate": 0.01, "validations": 2, "patience": 5} | changes))


def test_targets_are_those_that_stage_instructions_makes(baseline):
    task = baseline.task
    frames, _ = instructions(task.events, task.windows, task.vocabulary, CHATS, baseline.tokenizer, task.params)
    for split, samples in (("train", baseline.train), ("valid", baseline.valid)):
        assert frames[split]["input_ids"].to_list() == samples["input_ids"]
        marked = [sum(label != IGNORED for label in labels) for labels in samples["labels"]]
        ends, starts = (frames[split][name].to_list() for name in ("target_end", "target_start"))
        assert marked == [sum(e) - sum(s) for e, s in zip(ends, starts, strict=True)]


@torch.no_grad()
def test_the_loss_is_the_cross_entropy_of_the_labels(baseline):
    examples = [baseline.train[i] for i in range(3)]
    total, tokens = summed_loss(baseline.model, examples)
    expected = 0.0
    for example in examples:
        logits = baseline.model(torch.tensor([example["input_ids"]])).logits[0, :-1]
        labels = torch.tensor(example["labels"][1:])
        expected += float(torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum"))
    assert tokens == sum(label != IGNORED for example in examples for label in example["labels"])
    assert float(total) == pytest.approx(expected, rel=1e-4)
    alone = sum(float(summed_loss(baseline.model, [example])[0]) for example in examples)
    assert alone == pytest.approx(expected, rel=1e-4)


def test_the_rate_is_that_of_the_projects_own_training(baseline, monkeypatch):
    class Trainer(WarmupCosine):
        lr_scheduler = None
        schedule = type("Schedule", (), {"learning_rate": 0.01, "min_learning_rate": 1e-4, "warmup": 0.2})

    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.01)
    schedule = Trainer().create_scheduler(17, optimizer)
    (factor,) = schedule.lr_lambdas
    rates = []

    class Spy(torch.optim.AdamW):
        def step(self, *args, **kwargs):
            rates.append(self.param_groups[0]["lr"])

    monkeypatch.setattr(torch.optim, "AdamW", Spy)
    train("test", baseline.model, baseline.weights(), baseline.train.select(range(17)), baseline.valid,
          plan(batch_size=1), 0)
    assert rates == pytest.approx([0.01 * factor(step) for step in range(17)])


def test_a_stage_takes_keys_of_its_own_and_else_the_others():
    settings = {"learning_rate": 1.0, "weight_decay": 0.1, "batch_size": 4, "epochs": 2, "warmup": 0.1,
                "least_rate": 0.5, "validations": 3, "chat_learning_rate": 0.25, "chat_epochs": 7, "rank": 8}
    assert Plan.of(settings, 9) == Plan(1.0, 0.1, 4, 2, 0.1, 0.5, 3, 9)
    assert Plan.of(settings, 9, "chat_") == Plan(0.25, 0.1, 4, 7, 0.1, 0.5, 3, 9)


def fake_validations(monkeypatch, losses):
    found = iter(losses)
    monkeypatch.setattr(llm_training, "mean_loss", lambda model, samples: next(found))


def test_training_stops_when_patience_is_out_and_keeps_the_best_validation(baseline, monkeypatch):
    weights = baseline.weights()
    seen = []
    fake_validations(monkeypatch, [5.0, 4.0, 4.5, 4.0, 3.0])
    course = train("test", baseline.model, weights, baseline.train, baseline.valid,
                   plan(patience=2, validations=100, epochs=3), 0,
                   before_validation=lambda: seen.append({name: w.detach().clone() for name, w in weights.items()}))
    assert course.values == {0: 5.0, 1: 4.0, 2: 4.5, 3: 4.0} and course.best_step == 1 and course.steps == 3
    for name, weight in weights.items():
        assert torch.equal(weight, seen[1][name])
    assert any(not torch.equal(seen[1][name], seen[0][name]) for name in weights)


def test_training_that_only_harms_keeps_what_was_there(baseline, monkeypatch):
    before = {name: weight.detach().clone() for name, weight in baseline.weights().items()}
    fake_validations(monkeypatch, [1.0, 2.0, 3.0, 4.0, 5.0])
    course = train("test", baseline.model, baseline.weights(), baseline.train, baseline.valid, plan(), 0)
    assert course.best_step == 0 and course.best == 1.0
    assert all(torch.equal(weight, before[name]) for name, weight in baseline.weights().items())


def test_a_seed_makes_the_same_adapter_and_micro_batches_change_nothing(baseline, monkeypatch):
    found = []
    for micro in (4, 4, 1):
        monkeypatch.setattr(llm_training, "MICRO_BATCH", micro)
        baseline.base = baseline.model.unload()
        baseline.build(settings_of(baseline))
        train("test", baseline.model, baseline.weights(), baseline.train, baseline.valid, plan(batch_size=4), 3)
        found.append(torch.cat([weight.detach().flatten() for weight in baseline.weights().values()]))
    assert torch.equal(found[0], found[1])
    torch.testing.assert_close(found[0], found[2], atol=1e-4, rtol=0)


def test_the_reciprocal_rank_is_that_of_each_target_behind_its_own_history(baseline):
    answers, ranks = baseline.layout.answers, []
    for sequence in baseline.valid_sequences:
        for (start, _), behavior in zip(sequence.spans, sequence.behaviors, strict=True):
            log_p = score(baseline.model, [sequence.input_ids[:start]], answers).log_p[0]
            ranks.append(1 / (log_p >= log_p[behavior]).sum())
    for most in (5, 999):
        found = reciprocal_rank(baseline.model, baseline.valid_sequences, answers, most, "test")
        assert found == pytest.approx(np.mean(ranks[:most]))


@pytest.mark.parametrize(("targets", "budget", "outside", "used"), [(12, 30, 0, 12), (200, 7, 0, 7), (200, 30, 5, 25)])
def test_a_baseline_says_on_how_many_targets_it_was_chosen(
    loud_base, tmp_path, monkeypatch, targets, budget, outside, used
):
    """`instructions.valid_targets` or the budget's at most; a behaviour outside the vocabulary is none."""
    read = []

    def spy(model, prompts, answers, title):
        if "validation" in title:
            read.append(len(prompts))
        return score(model, prompts, answers, title)

    monkeypatch.setattr(llm_training, "score", spy)
    settings = SETTINGS | {"epochs": [1], "chat_epochs": [1], "validations": 1}
    task = small_task(tmp_path, "tallrec", settings, valid_windows=budget, instructions__train_targets=8,
                      instructions__valid_targets=targets)
    unknown = task.windows.filter(pl.col("split") == "valid")["row"][:outside]
    task.events = task.events.with_row_index("row").with_columns(
        behavior=pl.when(pl.col("row").is_in(unknown.implode())).then(pl.lit("Sleeping")).otherwise("behavior")
    ).drop("row")
    wanted = task.tested().head(2)
    _, facts = predictions(TALLRec(task, loud_base, CHATS).fit(), task, wanted)
    assert read == [facts["tuning"]["valid_windows"]] == [used]


@torch.no_grad()
def test_the_mean_loss_is_over_tokens_not_over_batches(baseline):
    parts = [summed_loss(baseline.model, [baseline.valid[i]]) for i in range(len(baseline.valid))]
    expected = sum(float(loss) for loss, _ in parts) / sum(tokens for _, tokens in parts)
    assert mean_loss(baseline.model, baseline.valid) == pytest.approx(expected, rel=1e-4)


def test_a_merged_adapter_gives_the_same_predictions_and_leaves_the_model_as_it_was(baseline, tmp_path):
    """As `load_merged` merges what is written of the baseline."""
    torch.manual_seed(0)
    for weight in baseline.weights().values():
        torch.nn.init.normal_(weight, std=0.1)
    prompts, answers = [baseline.layout.prompt(r) for r in (210, 215, 220)], baseline.layout.answers
    beside, before = score(baseline.model, prompts, answers).log_p, copy.deepcopy(baseline.model.state_dict())
    with baseline.model.disable_adapter():
        assert abs(score(baseline.model, prompts, answers).log_p - beside).max() > 0.1, "the adapter matters"
    with merged(baseline.model):
        assert not any("lora" in name for name, _ in baseline.model.named_modules())
        assert make_reader(baseline.model).layers[0].qkv.adapted is False
        found = score(baseline.model, prompts, answers).log_p
    np.testing.assert_allclose(found, beside, atol=1e-5, rtol=1e-6)
    write_weights(Fitted(baseline, {}, 0.0, []), tmp_path / "baseline")
    np.testing.assert_array_equal(found, score(load_merged(tmp_path / "baseline"), prompts, answers).log_p)
    after = baseline.model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
    np.testing.assert_array_equal(score(baseline.model, prompts, answers).log_p, beside)


def test_a_failure_while_merged_leaves_the_model_as_it_was(baseline):
    before = copy.deepcopy(baseline.model.state_dict())
    with pytest.raises(ZeroDivisionError), merged(baseline.model):
        1 / 0  # noqa: B018
    assert all(torch.equal(value, before[name]) for name, value in baseline.model.state_dict().items())


def test_an_adapter_that_the_model_has_no_place_for_is_refused(baseline):
    with pytest.raises(UserError, match="no place"):
        llm_training.adapted(load_base(baseline.folder), ["no_such_layer"], 4, 8, 0.0, 0)


def test_a_log_without_training_windows_is_refused(loud_base, tmp_path):
    task = small_task(tmp_path, "tallrec", SETTINGS)
    task.windows = task.windows.filter(pl.col("split") != "train")
    with pytest.raises(UserError, match="split train"):
        TALLRec(task, loud_base, CHATS)
