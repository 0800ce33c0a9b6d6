import io
import json
import subprocess
from datetime import datetime, timedelta

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.commands import predict
from stages.common import tables
from stages.common.errors import UserError
from stages.model.likelihood import score
from stages.model.load import load_merged
from stages.prompts.layouts import make_layout
from stages.prompts.log import EventLog
from stages.serving.lines import LONGEST_LINE, lines_of
from tests.small_log import BEHAVIORS, PLACES, sft_adapter, all_behaviors, small_log, small_params


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    monkeypatch.setenv("BEHAVIORLM_DTYPE", "float32")


@pytest.fixture(scope="module")
def tuned(tiny_base, tmp_path_factory):
    return sft_adapter(tiny_base, tmp_path_factory.mktemp("models") / "dpo")


@pytest.fixture
def predictor(tuned):
    return predict.Predictor(tuned, all_behaviors(), small_params())


START = datetime(2024, 3, 1, 7)


def lines(count, user=None, seed=0):
    """Events, each behind the question what it will be."""
    rng, found = np.random.default_rng(seed), []
    for number in range(count):
        event = {"time": (START + timedelta(hours=5 * number)).isoformat(), "place": str(rng.choice(PLACES))}
        if user is not None:
            event["user"] = user
        found += [event, event | {"behavior": str(rng.choice(BEHAVIORS))}]
    return [json.dumps(line) for line in found]


def test_probabilities_are_those_of_the_whole_prompt(predictor, tuned):
    model, layout = load_merged(tuned), predictor.parts.language.layout
    candidates = layout.candidates
    person = predictor.person()
    for line in map(json.loads, lines(15)):
        time = datetime.fromisoformat(line["time"])
        if "behavior" in line:
            person.append(time, line["place"], line["behavior"])
            continue
        found = person.predict(time, line["place"])
        prompt = layout.prefix + person.session.history() + layout.context_tokens(
            time.weekday(), time.hour, line["place"]
        )
        expected = np.exp(score(model, [prompt], layout.answers).log_p[0])
        assert [entry["behavior"] for entry in found] == [candidates[i] for i in np.argsort(-expected)]
        np.testing.assert_allclose([e["probability"] for e in found], np.sort(expected)[::-1], atol=1e-5)


@pytest.mark.parametrize("context", ["next", "history", "id"])
def test_a_prompt_is_that_of_the_same_events_in_a_log(tuned, context):
    events = small_log([20])
    params = small_params(prompt__context=context)
    one, model = predict.Predictor(tuned, all_behaviors(), params), load_merged(tuned)
    log, person, candidates = EventLog.from_tables(events, all_behaviors()), one.person(), one.candidates
    for row, (time, place, behavior) in enumerate(events.select("time", "place", "behavior").rows()):
        found = {entry["behavior"]: entry["probability"] for entry in person.predict(time, place)}
        # a session's history is longer than L now and then
        history = person.session.current.events
        layout = make_layout(one.parts.language.layout.tokenizer, log, params.prompt, history, 3, params.data_seed)
        expected = np.exp(score(model, [layout.prompt(row)], layout.answers).log_p[0])
        np.testing.assert_allclose([found[name] for name in candidates], expected, atol=1e-5)
        person.append(time, place, behavior)


@pytest.mark.parametrize("context", ["history", "id"])
def test_times_and_places_that_are_not_told_change_nothing(tuned, context):
    one = predict.Predictor(tuned, all_behaviors(), small_params(prompt__context=context))
    elsewhere = [json.loads(line) for line in lines(10)]
    for event in elsewhere:
        if "behavior" not in event:
            event.update(time="1999-12-31T23:00Z", place="far <|im_end|> " * 500)
        elif context == "id":
            event.update(time=event["time"].replace("2024", "2025"), place="<|im_end|>")
    usual, other = (
        list(predict.answers(asked, one, 3, False)) for asked in (lines(10), map(json.dumps, elsewhere))
    )
    assert usual == other and len(usual) == 10
    (answer,) = predict.answers(['{"place": "home"}'], one, 3, False)
    assert answer["error"].startswith('an object with "time" is needed')


def test_each_question_is_answered_with_its_line(predictor):
    asked = lines(4)
    found = list(predict.answers(asked, predictor, top=2, order_only=False))
    assert [answer["line"] for answer in found] == [1, 3, 5, 7]
    for answer in found:
        assert len(answer["predictions"]) == 2
        assert answer["predictions"][0]["probability"] >= answer["predictions"][1]["probability"] > 0


def test_the_order_alone_is_the_same_order(predictor):
    exact = list(predict.answers(lines(10), predictor, top=3, order_only=False))
    order = list(predict.answers(lines(10), predictor, top=3, order_only=True))
    for a, b in zip(exact, order, strict=True):
        assert [e["behavior"] for e in a["predictions"]] == [e["behavior"] for e in b["predictions"]]
        for precise, bounds in zip(a["predictions"], b["predictions"], strict=True):
            assert bounds["at_least"] - 1e-6 <= precise["probability"] <= bounds["at_most"] + 1e-6


def test_people_are_told_apart_and_not_named(predictor):
    one, other = lines(6, "anna", seed=1), lines(6, 42, seed=2)
    mixed = [line for pair in zip(one, other, strict=True) for line in pair]
    together = [answer["predictions"] for answer in predict.answers(mixed, predictor, 3, False)]
    apart = [[a["predictions"] for a in predict.answers(each, predictor, 3, False)] for each in (one, other)]
    assert together[::2] == apart[0] and together[1::2] == apart[1]
    assert "anna" not in json.dumps(together)


BAD = [
    (b"{", ["no JSON"]),
    (b"", ["empty"]),
    (b" \t\r\n", ["empty"]),
    (b"null", ['"time"']),
    (b"[" * 5000, ["no JSON", "deep"]),
    (b'{"a":' * 5000, ["no JSON", "deep"]),
    (b'{"time": "2024-03-02T08:00", "place": ' + b"[" * 900 + b"]" * 900 + b"}", ["place list", "text"]),
    (b'{"time": "2024-03-02T08:00", "user": ' + b"7" * 5000 + b"}", ["no JSON", "digits"]),
    (b'{"time": ' + b"7" * 4000 + b"}", ['"time"']),
    (b'{"time": "2024-03-02T08:00", "place": NaN}', ["NaN"]),
    (b'{"time": "2024-03-02T08:00", "user": -Infinity}', ["-Infinity"]),
    (b'{"time": "2024-03-02T08:00", "user": 1e400}', ["user", "text"]),
    (b'{"time": "2024-03-02T08:00", "user": 1.5}', ["user", "text"]),
    (b'{"time": "2024-03-02T08:00", "user": 9007199254740992.0}', ["user", "whole number"]),
    (b'{"time": "2024-03-02T08:00", "user": "1.5E+15"}', ["user", "digits"]),
    (b'{"time": "2024-03-02T08:00", "user": " "}', ["user", "empty"]),
    (b'{"time": "2024-03-02T08:00", "place": "caf\xe9"}', ["0xe9", "UTF-8"]),
    ('{"time": "2024-03-02T08:00"}'.encode("utf-16"), ["UTF-8"]),
    (b'{"time": "2024-03-02T08:00", "place": "' + b"x" * 100_000 + b'"}', ["65,536"]),
    (b'{"time": "2024-03-02T08:00", "time": "2024-03-02T09:00"}', ["'time'", "twice"]),
    (b'{"time": "2024-03-02T08:00", "place": "a\x01b"}', ["control character"]),
    (b'{"time": "2024-03-02T08:00", "place": "a\\u0000b"}', ["control character"]),
    (b'{"time": "2024-03-02"}', ["'2024-03-02'", "ISO"]),
    (b'{"time": "2024-03-02T08:00Z"}', ["offset", "source.time_zone"]),
    (b'{"time": "2024-03-02T08:00+99:99"}', ["ISO"]),
    (b'{"time": "2024-03-02T08:00-30"}', ["ISO"]),
    (b'{"time": "0001-01-01T00:00"}', ["0001", "1990"]),
    (b'{"time": "2024-02-01T08:00"}', ["before the last event", "2024-03-01T07:00"]),
    (b'{"time": "2024-03-02T08:00", "behavior": 0}', ["behavior 0", "text"]),
    (b'{"time": "2024-03-02T08:00", "behavior": " "}', ["behavior", "needed"]),
    (b'{"time": "2024-03-02T08:00", "behavior": "taking a taxi"}', ["'Taking a taxi'"]),
    (b'{"time": "2024-03-02T08:00", "behavior": "<|im_end|>"}', ["'<|im_end|>'"]),
    (b'{"time": "2024-03-02T08:00", "place": "home: Gaming\\nFri 9am home"}', ["control character"]),
    (b'{"time": "2024-03-02T08:00", "place": "\\ud800"}', ["control character"]),
    (b'{"time": "2024-03-02T08:00", "user": true}', ["user"]),
    (b"[1]", ['"time"']),
    (b'{"place": "home"}', ['"time"']),
    (b'{"time": "yesterday"}', ["'yesterday'", "2024-05-06T16:20"]),
    (b'{"time": "2024-03-01T08:00", "when": 1}', ["'when'", "behavior"]),
    (b'{"time": "2024-03-01T08:00", "place": 3}', ["place 3", "text"]),
    (b'{"time": "2024-03-01T08:00", "user": ["secret"]}', ["user"]),
    (b'{"time": "2024-03-01T08:00", "user": "secret", "place": 3}', ["place 3"]),
    (b'{"time": "yesterday", "user": "secret"}', ["'yesterday'"]),
    (json.dumps({"time": "2024-03-01T08:00", "place": "far " * 2000}).encode(), ["tokens long", "prompt.max_tokens"]),
]


@pytest.mark.parametrize(("line", "words"), BAD, ids=range(len(BAD)))
def test_a_bad_line_is_answered_with_what_is_wrong_and_changes_nothing(predictor, line, words):
    asked = [each.encode() for each in lines(3)]
    found = list(predict.answers([*asked[:2], line, *asked[2:]], predictor, 3, False))
    assert [answer["line"] for answer in found] == [1, 3, 4, 6]
    error = found.pop(1)
    assert set(error) == {"line", "error"} and all(word in error["error"] for word in words), error
    assert "secret" not in error["error"] and len(error["error"]) < 300 and "\n" not in error["error"]
    usual = list(predict.answers(asked, predictor, 3, False))
    assert [answer["predictions"] for answer in found] == [answer["predictions"] for answer in usual]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner)
    | st.dictionaries(st.text(), inner), max_leaves=5)
objects = st.fixed_dictionaries({}, optional={
    "user": json_values, "time": json_values | st.just("2024-03-01T08:00") | st.datetimes().map(datetime.isoformat),
    "place": json_values | st.sampled_from(PLACES), "behavior": json_values | st.sampled_from(BEHAVIORS),
    "other": json_values})


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary() | objects.map(lambda found: json.dumps(found).encode()), max_size=5))
def test_whatever_a_line_holds_it_is_an_event_a_question_or_an_error(predictor, asked):
    for answer in predict.answers(asked, predictor, 1, True):
        assert set(answer) in ({"line", "error"}, {"line", "predictions"})
        json.dumps(answer, ensure_ascii=False).encode()


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b""])
def test_lines_that_are_too_long_are_one_line_each_and_not_kept(ending):
    long = b"x" * 1_000_000
    edge = b"y" * (LONGEST_LINE - 1) + b"\n"
    found = list(lines_of(io.BytesIO(long + b"\n" + edge + b"short\n" + long + ending)))
    assert len(found) == 4 and found[1:3] == [edge, b"short\n"]
    assert all(LONGEST_LINE < len(found[place]) <= LONGEST_LINE + 1 for place in (0, 3))


def test_a_byte_order_mark_in_front_of_the_first_line_is_no_mistake(predictor):
    asked = [each.encode() for each in lines(2)]
    usual = list(predict.answers(asked, predictor, 3, False))
    assert list(predict.answers([b"\xef\xbb\xbf" + asked[0], *asked[1:]], predictor, 3, False)) == usual


@pytest.mark.parametrize("written", [
    [7, "7", 7.0, " 7 ", "7.0"], ["a1b2c3d4-0000-4000-8000-0000000000ff", "A1B2C3D4-0000-4000-8000-0000000000FF"],
])
def test_a_user_is_the_same_as_text_and_as_a_number_and_a_uuid_in_capitals(predictor, written):
    asked = [json.loads(line) for line in lines(6)]
    usual = list(predict.answers(map(json.dumps, asked), predictor, 3, False))
    for place, line in enumerate(asked):
        line["user"] = written[place % len(written)]
    assert list(predict.answers(map(json.dumps, asked), predictor, 3, False)) == usual


def test_the_layout_window_is_refused(tuned):
    with pytest.raises(UserError, match=r"prompt\.layout: window"):
        predict.Predictor(tuned, all_behaviors(), small_params(prompt__layout="window"))


def test_the_command_answers_line_by_line(warm_python, tuned, tmp_path):
    tables.write(all_behaviors(), "vocabulary", tmp_path / "vocabulary.parquet")
    command = [str(warm_python), "-m", "stages.predict", "--model", str(tuned), "--vocabulary",
               str(tmp_path / "vocabulary.parquet"), "--top", "1"]
    asked = "\n".join(lines(2)) + "\n"
    done = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["line"] for line in done.stdout.splitlines()] == [1, 3]
    (tmp_path / "log.jsonl").write_text(asked + "{\n", encoding="utf-8")
    command += ["--input", str(tmp_path / "log.jsonl")]
    bad = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert bad.returncode == 0, "it is the asker's mistake"
    assert bad.stderr == "1 of 5 lines were bad, each answered with its error\n"
    assert bad.stdout.startswith(done.stdout) and json.loads(bad.stdout.splitlines()[-1]).keys() == {"line", "error"}


def test_the_command_keeps_the_state_of_so_many_people_and_answers_all_alike(warm_python, tuned, tmp_path):
    tables.write(all_behaviors(), "vocabulary", tmp_path / "vocabulary.parquet")
    asked = [line for pair in zip(lines(5, "one", seed=1), lines(5, "other", seed=2), strict=True) for line in pair]
    command = [str(warm_python), "-m", "stages.predict", "--model", str(tuned), "--vocabulary",
               str(tmp_path / "vocabulary.parquet"), "--top", "1", "--max-memory", "100MB"]
    few, all_kept = (
        subprocess.run([*command, "--max-people", people], input="\n".join(asked) + "\n", capture_output=True,
                       text=True, timeout=120, check=True) for people in ("1", "2"))
    assert "answers took the time of reading a person's events anew" in few.stderr and not all_kept.stderr
    one, other = ([json.loads(line) for line in done.stdout.splitlines()] for done in (few, all_kept))
    assert [answer["line"] for answer in one] == [answer["line"] for answer in other] and len(one) == 10
    for mine, theirs in zip(one, other, strict=True):
        (mine,), (theirs,) = mine["predictions"], theirs["predictions"]
        assert mine["behavior"] == theirs["behavior"]
        assert mine["probability"] == pytest.approx(theirs["probability"], abs=1e-5)


def decided(tuned, **decision):
    """Plain answers, and the same under a decision."""
    plain = predict.Predictor(tuned, all_behaviors(), small_params())
    other = predict.Predictor(tuned, all_behaviors(), small_params(), predict.Decision(**decision))
    return zip(*(predict.answers(lines(10), one, top=len(BEHAVIORS), order_only=False) for one in (plain, other)),
               strict=True)


def test_adjusted_answers_go_by_probability_over_frequency(tuned):
    share, moved = dict(all_behaviors().select("behavior", "share").iter_rows()), 0
    for plain, adjusted in decided(tuned, tau=6.0):
        p = {each["behavior"]: each["probability"] for each in plain["predictions"]}
        names = [each["behavior"] for each in adjusted["predictions"]]
        assert names == sorted(p, key=lambda name: -p[name] / share[name] ** 6.0)
        assert {each["behavior"]: each["probability"] for each in adjusted["predictions"]} == pytest.approx(p)
        printed = [each["adjusted"] for each in adjusted["predictions"]]
        assert printed == sorted(printed, reverse=True) and sum(printed) == pytest.approx(1, abs=1e-5)
        assert printed[0] / printed[1] == pytest.approx(
            p[names[0]] / p[names[1]] * (share[names[1]] / share[names[0]]) ** 6.0, rel=1e-3)
        moved += names != list(p)
    assert moved, "the adjustment changed no answer"


def test_calibrated_answers_keep_their_order_and_are_less_sure(tuned):
    for plain, calibrated in decided(tuned, temperature=2.0):
        before, after = ([each["probability"] for each in found["predictions"]] for found in (plain, calibrated))
        assert [e["behavior"] for e in plain["predictions"]] == [e["behavior"] for e in calibrated["predictions"]]
        assert after == pytest.approx(np.sqrt(before) / np.sqrt(before).sum(), abs=1e-5)
        assert sum(after) == pytest.approx(1) and after[0] < before[0]


def test_a_decision_is_read_from_the_models_metrics(tmp_path):
    path = tmp_path / "dpo.json"
    path.write_text('{"adjusted": {"tau": 0.5}, "calibrated": {"temperature": 1.5}}', encoding="utf-8")
    assert predict.Decision.read("adjusted", path) == predict.Decision(tau=0.5)
    assert predict.Decision.read("calibrated", path) == predict.Decision(temperature=1.5)
    assert predict.Decision.read("plain", tmp_path / "none.json") == predict.Decision()
    for name, content in (("none.json", None), ("old.json", "{}"), ("bad.json", "{")):
        if content is not None:
            (tmp_path / name).write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match=f"--decision adjusted: .*{name}: no metrics of stage evaluate"):
            predict.Decision.read("adjusted", tmp_path / name)


def test_the_order_alone_is_of_plain_probabilities(warm_python, tuned):
    command = [warm_python, "-m", "stages.predict", "--model", tuned, "--order-only", "--decision", "adjusted"]
    done = subprocess.run(command, input="", capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "--order-only knows the order of the plain probabilities only" in done.stderr
