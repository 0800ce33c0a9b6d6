import shutil
from pathlib import Path

import pytest

from stages.common.errors import UserError
from stages.params import Params, read_all

ROOT = Path(__file__).parents[2]


@pytest.fixture
def params_file(tmp_path):
    return Path(shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml"))


def change(path, key, line):
    """Put `line` in the place of a key's line, whatever its value; a section's key is written section.key."""
    section, _, name = key.rpartition(".")
    text = path.read_text(encoding="utf-8")
    start = text.index(f"\n{section}:\n") if section else 0
    at = text.index(f"\n{'  ' if section else ''}{name}:", start) + 1
    path.write_text(text[:at] + line + text[text.index("\n", at):], encoding="utf-8")


def refused(path):
    with pytest.raises(UserError) as error:
        read_all(path)
    return str(error.value)


def test_the_repositorys_params_are_valid():
    assert isinstance(read_all(ROOT / "params.yaml"), Params)


@pytest.mark.parametrize("written", ["5e-5", "5.0e-05", "5e-05", "0.00005"])
def test_a_rate_is_a_number_however_it_is_written(params_file, written):
    change(params_file, "dpo.learning_rate", f"  learning_rate: {written}")
    assert read_all(params_file).dpo.learning_rate == 5e-5


def test_lambda_is_read_by_its_key(params_file):
    change(params_file, "selection.lambda", "  lambda: 0.25")
    assert read_all(params_file).selection.lambda_ == 0.25


def test_sections_are_frozen():
    params = read_all(ROOT / "params.yaml")
    with pytest.raises(ValueError, match="frozen"):
        params.sft.epsilon = 0.5


@pytest.mark.parametrize(("key", "line", "says"), [
    ("sft.epsilon", "  epsilom: 0.05", ["sft.epsilom: no such key", "did you mean `epsilon`?", "sft.epsilon: missing"]),
    ("selection.lambda", "  lamda: 0.5", ["selection.lamda: no such key", "did you mean `lambda`?"]),
    ("dpo.beta", "  zzzzz: 0.1", ["dpo.zzzzz: no such key"]),
    ("lora", "lorra:", ["lorra: no such key", "did you mean `lora`?", "lora: missing"]),
])
def test_an_unknown_key_is_refused_with_the_nearest_one(params_file, key, line, says):
    change(params_file, key, line)
    message = refused(params_file)
    assert str(params_file) in message
    for part in says:
        assert part in message
    if "zzzzz" in line:
        assert "did you mean" not in message


@pytest.mark.parametrize(("key", "line", "says"), [
    ("seed", "seed: -1", "seed: -1: Input should be greater than or equal to 0"),
    ("seed", "seed: 4294967296", "seed: 4294967296: Input should be less than 4294967296"),
    ("dpo.beta", "  beta: 0", "dpo.beta: 0: Input should be greater than 0"),
    ("dpo.beta", "  beta: high", "dpo.beta: 'high': Input should be a valid number"),
    ("selection.lambda", "  lambda: 1.5", "selection.lambda: 1.5: Input should be less than or equal to 1"),
    ("source.format", "  format: csv", "source.format: 'csv': Input should be 'simulated', "),
    ("prompt.layout", "  layout: steam", "prompt.layout: 'steam': Input should be 'stream' or 'window'"),
    ("prompt.context", "  context: none", "prompt.context: 'none': Input should be 'next', 'history' or 'id'"),
    ("windowing.fold", "  fold: 10", "windowing.fold: 10: Input should be less than or equal to 9"),
    ("sft.labels", "  labels: rare", "sft.labels: 'rare': Input should be 'anchors', 'all', 'tail', 'tail_and_medium'"),
    ("evaluate.tau", "  tau: sometimes", "'sometimes': expected `validation`, or a number from 0 to 10"),
    ("evaluate.tau", "  tau: -1", "-1: expected `validation`, or a number from 0 to 10"),
    ("evaluate.temperature", "  temperature: 0", "0: expected `validation`, or a number from 0.01 to 100"),
    ("lora.rank", "  rank: 8.5", "lora.rank: 8.5: Input should be a valid integer"),
    ("lora.dropout", "  dropout: 1", "lora.dropout: 1: Input should be less than 1"),
    ("prompt.stream_events", "  stream_events: 1", "prompt.stream_events: 1: Input should be greater than or"),
    ("selection.method", "  method: k-means", "selection.method: 'k-means': Input should be 'kmeans', 'difficulty'"),
    ("windowing.min_history", "  min_history: 1000000", "windowing: min_history 1000000 is above history"),
    ("simulator.users", "  users:", "simulator.users: None"),
])
def test_a_value_out_of_range_is_refused_with_key_value_and_range(params_file, key, line, says):
    change(params_file, key, line)
    assert says in refused(params_file)


def test_all_faults_are_named_at_once(params_file):
    change(params_file, "dpo.beta", "  beta: -1")
    change(params_file, "sft.epsilon", "  epsilon: 11")
    change(params_file, "model.revision", "  revison: ''")
    message = refused(params_file)
    for part in ("dpo.beta: -1", "sft.epsilon: 11", "model.revison", "model.revision: missing"):
        assert part in message


@pytest.mark.parametrize(("content", "says"), [
    ("seed: [0", "not valid YAML"),
    ("seed: 0\nseed: 1\n", "not valid YAML"),
    ("- seed", "expected sections such as `windowing:`, found"),
    ("", "expected sections such as `windowing:`, found NoneType"),
    ("seed: 0\n", "windowing: missing"),
])
def test_what_is_no_params_file_is_refused(tmp_path, content, says):
    path = tmp_path / "params.yaml"
    path.write_text(content, encoding="utf-8")
    assert says in refused(path)


def test_a_file_that_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_bytes("seed: 0 # β".encode("utf-16"))
    assert "not valid YAML" in refused(path)


def test_a_missing_file_is_refused_with_the_cure(tmp_path):
    assert "no such file; run from the repository's root" in refused(tmp_path / "params.yaml")
