"""What `--model` names answers as the parts do of which it is made."""

import json
import shutil
import subprocess
import sys
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest

from stages.common import tables
from stages.commands import predict
from stages.common.checksums import seal_folder
from stages.common.errors import UserError
from stages.common.files import read_json, write_json
from stages.past import saved
from stages.past.parts import digests
from stages.past.pool import pooled
from stages.serving.decision import Decision
from stages.serving.person import Predictor
from stages.windows.past import Past
from tests.serving.test_past import MODELS
from tests.small_log import BEHAVIORS, PLACES, all_behaviors, sft_adapter, small_params

START = datetime(2024, 3, 1, 7)


def pool(folder, weights, models):
    """A pool of what stands in `models`."""
    folder.mkdir()
    known = [name for name in weights if not name.startswith("baselines/")]
    write_json(folder / "fusion.json", {"format": 1, "weights": weights, "models": digests(models, known)})
    seal_folder(folder)
    return folder


@pytest.fixture(scope="module")
def models(tiny_base, tmp_path_factory):
    """A folder as `models`."""
    folder = tmp_path_factory.mktemp("models")
    saved.write(MODELS[True], list(BEHAVIORS), folder / "habits")
    sft_adapter(tiny_base, folder / "sft")
    pool(folder / "fusion", {"habits": 0.6, "sft": 0.3, "reference/past": 0.2}, folder)
    pool(folder / "silent", {"habits": 0.8, "sft": 0.0, "reference/past": 0.1}, folder)
    pool(folder / "counts", {"habits": 0.0, "sft": 0.0, "reference/past": 1.0}, folder)
    pool(folder / "spoken", {"habits": 0.0, "sft": 0.5, "reference/past": 0.0}, folder)
    return folder


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    monkeypatch.setenv("BEHAVIORLM_DTYPE", "float32")


def predictor(models, name, decision=None):
    return Predictor(models / name, all_behaviors(), small_params(), *([decision] if decision else []))


def log(events=30, seed=0):
    rng = np.random.default_rng(seed)
    names = [*BEHAVIORS, "Swimming", "Chess"]
    return [(START + timedelta(hours=5 * number), str(rng.choice([*PLACES, "the moon"])), str(rng.choice(names)))
            for number in range(events)]


def answers(predictor, events, top=None):
    """Each question before its event: probability by candidate."""
    person, found = predictor.person(), []
    for time, place, behavior in events:
        found.append({each.pop("behavior"): each for each in person.predict(time, place, top)})
        person.append(time, place, behavior)
    return found


def probabilities(predictor, events):
    return [{name: each["probability"] for name, each in one.items()} for one in answers(predictor, events)]


def test_habits_answer_as_the_table_of_predictions(models):
    events = log()
    frame = pl.DataFrame([(0, *each, None) for each in events], schema=["user", "time", "place", "behavior", "offset"],
                         orient="row").cast(tables.SCHEMAS["events"])
    past = Past.from_tables(frame, all_behaviors())
    batch = MODELS[True].log_p(past, np.arange(frame.height))
    for row, found in enumerate(probabilities(predictor(models, "habits"), events)):
        names = [*BEHAVIORS, *past.labels_outside(row)]
        assert found == pytest.approx(dict(zip(names, np.exp(batch[row]), strict=True)), abs=1e-5)
        assert list(found.values()) == sorted(found.values(), reverse=True)


def test_a_pool_is_the_pool_of_its_parts(models):
    events = log()
    found = {name: probabilities(predictor(models, name), events)
             for name in ("fusion", "silent", "counts", "spoken", "habits", "sft")}
    for row, answer in enumerate(found["fusion"]):
        names = list(answer)
        parts = {name: np.log([found[name][row][each] for each in names])[None] for name in ("habits", "counts", "sft")}
        for name, weights in (("fusion", (0.6, 0.2, 0.3)), ("silent", (0.8, 0.1, 0)), ("spoken", (0, 0, 0.5))):
            expected = np.exp(pooled(list(parts.values()), np.array(weights)))[0]
            np.testing.assert_allclose([found[name][row][each] for each in names], expected, atol=1e-5)
    assert {"Swimming", "Chess"} <= found["fusion"][-1].keys() and len(found["sft"][-1]) == len(BEHAVIORS) + 2


def test_parts_without_weight_are_not_loaded(models):
    assert predictor(models, "silent").parts.language is None
    assert predictor(models, "spoken").parts.habits is None
    assert set(predictor(models, "fusion").parts.weights) == {"habits", "sft", "reference/past"}


def test_the_order_alone_is_the_same_order(models):
    for name in ("fusion", "habits"):
        one, events = predictor(models, name), log(10)
        for exact, order in zip(answers(one, events), answers(one, events, top=3), strict=True):
            assert list(exact)[:3] == list(order)
            for behavior, bounds in order.items():
                assert bounds["at_least"] == bounds["at_most"] == exact[behavior]["probability"]


def test_decisions_hold_for_candidates_of_ones_own(models):
    """Their share is that of the rarest behaviour."""
    share = dict(all_behaviors().select("behavior", "share").iter_rows())
    plain, adjusted = (answers(predictor(models, "fusion", decision), log()) for decision in (None, Decision(tau=2.0)))
    for one, other in zip(plain, adjusted, strict=True):
        rank = sorted(one, key=lambda name: -one[name]["probability"] / share.get(name, min(share.values())) ** 2)
        assert list(other) == rank
    warm = probabilities(predictor(models, "habits", Decision(temperature=2.0)), log())[-1]
    cold = probabilities(predictor(models, "habits"), log())[-1]
    total = sum(np.sqrt(list(cold.values())))
    assert warm == pytest.approx({name: np.sqrt(p) / total for name, p in cold.items()}, abs=1e-5)


def test_what_cannot_be_served_is_an_error_that_says_what_can(models, tmp_path):
    other = pool(tmp_path / "fusion", {"habits": 0.5, "sft": 0.1, "baselines/sasrec_ce_next": 0.4}, models)
    with pytest.raises(UserError, match=r"pools baselines/sasrec_ce_next.*fusion\.beside.*--model"):
        Predictor(other, all_behaviors(), small_params(), beside=models)
    with pytest.raises(UserError, match=r"none: no fusion\.json, habits\.json or base\.json"):
        Predictor(tmp_path / "none", all_behaviors(), small_params())
    with pytest.raises(UserError, match="made with 6 behaviours that are not the vocabulary's 5"):
        Predictor(models / "habits", all_behaviors().head(5), small_params())
    damaged = pool(tmp_path / "damaged", {"habits": 1.0}, models)
    write_json(damaged / "fusion.json", {"weights": {"habits": 2.0}})
    with pytest.raises(UserError, match="damaged"):
        Predictor(damaged, all_behaviors(), small_params(), beside=models)


def test_a_pool_of_another_version_is_named(models, tmp_path):
    old = pool(tmp_path / "old", {"habits": 1.0}, models)
    write_json(old / "fusion.json", {"weights": {"habits": 1.0}})
    seal_folder(old)
    with pytest.raises(UserError, match=r"old/fusion\.json: made by another version.*`dvc repro fusion`"):
        Predictor(old, all_behaviors(), small_params(), beside=models)


def test_a_pool_takes_no_other_model_than_it_was_fitted_on(models, tmp_path):
    other = tmp_path / "models"
    shutil.copytree(models, other)
    facts = read_json(other / "habits" / "habits.json")
    write_json(other / "habits" / "habits.json", facts | {"events": facts["events"] + 1})
    seal_folder(other / "habits")
    with pytest.raises(UserError, match=r"models/habits: not the model that .*fusion was fitted on.*dvc repro fusion"):
        predictor(other, "fusion")
    assert predictor(other, "spoken") and predictor(other, "habits")


def test_the_parts_may_stand_elsewhere(models, tmp_path):
    away = Predictor(pool(tmp_path / "p", {"habits": 1.0}, models), all_behaviors(), small_params(), beside=models)
    assert answers(away, log(5)) == answers(predictor(models, "habits"), log(5))


def test_a_name_is_no_longer_than_in_a_log(models):
    person = predictor(models, "habits").person()
    for event in ((START, "x" * 101, "Swimming"), (START, "home", "x" * 101)):
        with pytest.raises(UserError, match="longer than 100 characters"):
            person.append(*event)
    person.append(START, "x" * 100, "y" * 100)
    assert person.past.count == 1


def test_habits_start_without_pytorch_and_answer_line_by_line(models, tmp_path):
    tables.write(all_behaviors(), "vocabulary", tmp_path / "vocabulary.parquet")
    program = ("import sys; from stages.commands import predict; predict.main(); "
               "print(sorted({'torch', 'transformers', 'scipy'} & set(sys.modules)), file=sys.stderr)")
    lines = [{"time": "2024-03-01T07:00", "behavior": "Swimming"}, {"time": "2024-03-01T08:00"}, {"time": "then"},
             {"time": "2024-03-01T05:00"}, {"time": "2024-03-01T09:00", "behavior": "taking a taxi"}]
    done = subprocess.run(
        [sys.executable, "-c", program, "--model", str(models / "habits"), "--vocabulary",
         str(tmp_path / "vocabulary.parquet"), "--top", "9"], input="\n".join(map(json.dumps, lines)) + "\n",
        capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stderr.splitlines() == [
        "3 of 5 lines were bad, each answered with its error", "[]"], done.stderr
    answer, *errors = map(json.loads, done.stdout.splitlines())
    assert len(answer["predictions"]) == len(BEHAVIORS) + 1 and answer["line"] == 2
    assert [each["line"] for each in errors] == [3, 4, 5]
    assert "before the last event's" in errors[1]["error"] and "'Taking a taxi'" in errors[2]["error"]


def test_the_command_takes_the_parts_from_where_it_is_told(models, tmp_path, monkeypatch, capsys):
    tables.write(all_behaviors(), "vocabulary", tmp_path / "vocabulary.parquet")
    (tmp_path / "lines").write_text('{"time": "2024-03-01T08:00"}\n', encoding="utf-8")
    away = pool(tmp_path / "p", {"habits": 1.0}, models)
    said = []
    for words in ([away, "--parts", models], [models / "habits"]):
        monkeypatch.setattr(sys, "argv", ["predict", "--vocabulary", str(tmp_path / "vocabulary.parquet"), "--input",
                                          str(tmp_path / "lines"), "--model", *map(str, words)])
        predict.main()
        said.append(json.loads(capsys.readouterr().out))
    assert said[0] == said[1] and said[0]["predictions"]
