"""Estimates: a first guess, better with what was seen; a file that is broken is as good as none."""

import json

import pytest

from stages.params import read_all
from stages.studies.durations import _FIRST_GUESS, LANGUAGE_BASELINES, OVERHEAD, Durations
from stages.studies.pipeline import BASELINES, Pipeline
from tests.contract.imports import ROOT

PARAMS = read_all(ROOT / "params.yaml")


def with_values(section, **values):
    part = getattr(PARAMS, section).model_copy(update=values)
    return PARAMS.model_copy(update={section: part})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache" / "durations.json"


def test_a_first_guess_grows_with_the_work(path):
    guess = Durations(path, behaviors=35)
    assert not path.exists()
    assert guess.seconds("sft", with_values("instructions", train_targets=50_000)) > 5 * guess.seconds("sft", PARAMS)
    large = with_values("scoring", pool_per_behavior=120)
    assert guess.seconds("scoring", large) > 5 * guess.seconds("scoring", PARAMS)
    assert guess.seconds("predictions@dpo", PARAMS) > guess.seconds("predictions@dpo", with_values(
        "windowing", balanced_per_behavior=1))
    assert guess.seconds("dpo", with_values("dpo", epochs=4.0)) > guess.seconds("dpo", PARAMS)
    assert guess.seconds("ingest", PARAMS) > 0 and guess.seconds("a_new_stage", PARAMS) > 0 and OVERHEAD > 0


def test_what_was_seen_scales_what_was_not(path):
    durations = Durations(path, 35)
    more = with_values("instructions", train_targets=20_000)
    before, before_more = durations.seconds("sft", PARAMS), durations.seconds("sft", more)
    durations.add("sft", PARAMS, before * 3)
    assert durations.seconds("sft", PARAMS) == pytest.approx(before * 3, rel=0.01)
    assert durations.seconds("sft", more) == pytest.approx(before_more * 3, rel=0.01)
    # a matrix's stages are of one kind, other stages are left alone
    durations.add("predictions@base", PARAMS, 500)
    assert durations.seconds("predictions@dpo", PARAMS) == pytest.approx(500, rel=0.01)
    assert durations.seconds("scoring", PARAMS) == Durations(path.with_name("none"), 35).seconds("scoring", PARAMS)


@pytest.mark.parametrize("baseline", ["sasrec@ce-next", "gpt2@ce-next", "llara@next"])
def test_a_baseline_takes_as_long_as_it_may_try_settings(path, baseline):
    stage = f"{BASELINES}:{baseline}"
    seen = Durations(path, 35)
    assert seen.seconds(stage, PARAMS, trials=4) == pytest.approx(4 * seen.seconds(stage, PARAMS, trials=1))
    seen.add(stage, PARAMS, 100, trials=1)
    assert seen.seconds(stage, PARAMS, trials=4) == pytest.approx(400)
    fewer = with_values("instructions", train_targets=PARAMS.instructions.train_targets // 2)
    asked = 50 if "llara" in baseline else 100  # the others learn from the whole log
    assert seen.seconds(stage, fewer, trials=1) == pytest.approx(asked)


def test_guesses_are_of_stages_that_there_are():
    kinds = {name.partition("@")[0]: stage for name, stage in Pipeline(ROOT).stages.items()}
    assert _FIRST_GUESS.keys() <= kinds.keys()
    given = {kind.removeprefix(f"{BASELINES}:") for kind, stage in kinds.items()
             if kind.startswith(BASELINES) and "instructions" in stage.params}
    assert given == set(LANGUAGE_BASELINES), "their params say how many windows they learn from"


def test_what_a_stage_took_that_did_no_counted_work_says_nothing(path):
    path.parent.mkdir()
    stage = f"{BASELINES}:sasrec"
    path.write_text(json.dumps({stage: [[0.0, 500]]}))
    assert Durations(path, 35).seconds(stage, PARAMS) == Durations(path.with_name("none"), 35).seconds(stage, PARAMS)


def test_the_file_survives_and_keeps_the_latest(path):
    durations = Durations(path, 35)
    for seconds in range(30):
        durations.add("ingest", PARAMS, seconds)
    found = Durations(path, 35)
    assert [row[1] for row in found.known["ingest"]] == list(range(10, 30))
    assert found.seconds("ingest", PARAMS) == durations.seconds("ingest", PARAMS) == pytest.approx(19.5)


@pytest.mark.parametrize("content", [
    b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"sft": 3}', b'{"sft": [[1], "x", [null, 2], [1, NaN], [-1, 2]]}',
    b'{"seconds by result": [1]}', b'{"seconds by result": {"a": null, "b": -1, "c": "x"}}',
])
def test_a_broken_file_is_as_good_as_none_and_is_replaced(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    durations = Durations(path, 35)
    assert durations.seconds("sft", PARAMS) == Durations(path.with_name("none"), 35).seconds("sft", PARAMS)
    durations.add("sft", PARAMS, 12.345)
    assert json.loads(path.read_text()).keys() == {"sft", "seconds by result"}
    assert len(Durations(path, 35).known["sft"]) == 1 and Durations(path, 35).took == {}


def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path):
    (tmp_path / "file").write_text("in the way")
    durations = Durations(tmp_path / "file" / "durations.json", 35)
    durations.add("ingest", PARAMS, 40)
    assert durations.seconds("ingest", PARAMS) == pytest.approx(40)


def test_seconds_of_a_result_are_kept_by_its_key_and_the_oldest_forgotten(path, monkeypatch):
    monkeypatch.setattr("stages.studies.durations._RESULTS_KEPT", 2)
    durations = Durations(path, 35)
    for number, key in enumerate(["first", "second", None, "third"]):
        durations.add("sft@x", PARAMS, float(number), key)
    assert Durations(path, 35).took == {"second": 1.0, "third": 3.0}
    assert len(Durations(path, 35).known["sft"]) == 4


def test_two_studies_at_once_keep_what_each_has_seen(path):
    first, second = Durations(path, 35), Durations(path, 35)
    first.add("sft", PARAMS, 1.0, "first")
    second.add("dpo", PARAMS, 2.0, "second")
    found = Durations(path, 35)
    assert found.took == {"first": 1.0, "second": 2.0} and found.known.keys() == {"sft", "dpo"}
