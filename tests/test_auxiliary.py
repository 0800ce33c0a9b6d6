import json
import sys

import pytest

from stages import auxiliary as stage
from stages.auxiliary import auxiliary
from stages.common import tables
from stages.common.errors import UserError
from stages.common.files import sha256
from stages.model import generate
from stages.model.generate import _whole_sentences, answer_prompts
from stages.model.load import load_base, load_tokenizer
from stages.prompts.conversations import encode_conversation
from tests.events.helpers import write_params
from tests.small_log import small_params


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    monkeypatch.setenv("BEHAVIORLM_DTYPE", "float32")


@pytest.fixture
def folder(tmp_path):
    """As `data/auxiliary`: prompts, and a file of conversations of many lengths."""
    questions = [f"What is {number}?" for number in range(30)]
    (tmp_path / "everyday.txt").write_text("\n\n".join(questions) + "\n", encoding="utf-8")
    records = [{"question": f"What is {number}?", "answer": f"It is {number}" + " and so on" * number + "."}
               for number in range(30)]
    (tmp_path / "chats.json").write_text(json.dumps(records), encoding="utf-8")
    return tmp_path


def run(model, folder, seed=0, **changes):
    params = small_params(**{f"auxiliary__{key}": value for key, value in ({"source": "chats.json"} | changes).items()})
    frame, counts = auxiliary(params.auxiliary, model, folder / "everyday.txt", seed)
    return tables.check(frame, "conversations", "x")["turns"].to_list(), counts


def sizes(model, turns):
    return [len(encode_conversation(load_tokenizer(model), one).input_ids) for one in turns]


def test_conversations_of_a_file_that_are_not_too_long_are_kept(tiny_base, folder):
    everything, counts = run(tiny_base, folder, conversations=100, max_tokens=10_000)
    assert len(everything) == 30 == counts["found"] and counts["too_long"] == 0
    limit = sorted(sizes(tiny_base, everything))[12]
    kept, counts = run(tiny_base, folder, conversations=100, max_tokens=limit)
    assert kept == [turns for turns in everything if sizes(tiny_base, [turns])[0] <= limit]
    assert (counts["kept"], counts["too_long"]) == (len(kept), 30 - len(kept)) and len(kept) >= 13
    assert counts["tokens"] == sum(sizes(tiny_base, kept))
    assert counts["sha256"] == sha256(folder / "chats.json") and counts["source"] == "chats.json"


def test_at_most_so_many_are_kept_by_a_seeded_choice(tiny_base, folder):
    one, counts = run(tiny_base, folder, conversations=8, max_tokens=10_000)
    assert len(one) == 8 == counts["kept"] and len({tuple(turns) for turns in one}) == 8
    assert one == run(tiny_base, folder, conversations=8, max_tokens=10_000)[0]
    assert one != run(tiny_base, folder, seed=1, conversations=8, max_tokens=10_000)[0]


def test_a_limit_that_none_keeps_is_refused_with_the_shortest(tiny_base, folder):
    everything, _ = run(tiny_base, folder, conversations=100, max_tokens=10_000)
    shortest = min(sizes(tiny_base, everything))
    with pytest.raises(UserError, match=f"auxiliary.max_tokens: 8: all 30 .* are longer; .* {shortest} tokens"):
        run(tiny_base, folder, max_tokens=8)


def test_a_file_that_is_not_there_is_refused(tiny_base, folder):
    with pytest.raises(UserError, match="auxiliary.source: none.json: no such file"):
        run(tiny_base, folder, source="none.json")


def test_a_file_outside_the_watched_folder_is_used_and_said_so(tiny_base, folder, tmp_path_factory, capsys):
    outside = tmp_path_factory.mktemp("elsewhere") / "mine.json"
    outside.write_text((folder / "chats.json").read_text(encoding="utf-8"), encoding="utf-8")
    run(tiny_base, folder, source=str(outside))
    assert "will not notice when it changes" in " ".join(capsys.readouterr().err.split())
    run(tiny_base, folder)
    assert "notice" not in capsys.readouterr().err


def test_the_untuned_model_answers_the_prompts(tiny_base, folder, monkeypatch):
    asked = []

    def answers(model, tokenizer, prompts, max_new_tokens, seed):
        asked.append((list(prompts), max_new_tokens, seed))
        return ["" if number % 3 == 0 else f"Answer {number}." for number in range(len(prompts))]

    monkeypatch.setattr(stage, "answer_prompts", answers)
    kept, counts = run(tiny_base, folder, seed=5, source="self", conversations=10, max_tokens=200)
    assert asked == [([f"What is {number}?" for number in range(10)], 96, 5)]
    assert kept == [[f"What is {n}?", f"Answer {n}."] for n in range(10) if n % 3], "no empty answers"
    assert (counts["source"], counts["found"]) == ("self", 6)


def test_a_model_that_answers_nothing_is_refused(tiny_base, folder, monkeypatch):
    monkeypatch.setattr(stage, "answer_prompts", lambda model, tokenizer, prompts, *rest: [""] * len(prompts))
    with pytest.raises(UserError, match="auxiliary.source: self: the model answered none of .* in whole sentences"):
        run(tiny_base, folder, source="self")


def test_answers_follow_the_seed_and_are_whole_sentences(tiny_base, monkeypatch):
    monkeypatch.setattr(generate, "_BATCH", 3)
    model, tokenizer = load_base(tiny_base), load_tokenizer(tiny_base)
    prompts = ["Hi", "What would you like to do tomorrow?", "Why", "And you?"]

    def answer(seed):
        return answer_prompts(model, tokenizer, prompts, 40, seed)

    one = answer(0)
    assert one == answer(0) and one != answer(1)
    assert len(one) == len(prompts) and any(one)
    assert all(text == "" or text[-1] in ".!?" for text in one)
    assert not any("<|im_" in text for text in one)


def test_text_is_cut_after_its_last_sentence():
    assert _whole_sentences(" One. Two! Three? And fo") == "One. Two! Three?"
    assert _whole_sentences("no end") == ""


def test_command(tiny_base, folder, monkeypatch):
    params = small_params(auxiliary__source="chats.json", auxiliary__conversations=4)
    write_params(folder / "params.yaml", params)
    monkeypatch.setattr(sys, "argv", [
        "auxiliary", "--params", str(folder / "params.yaml"), "--model", str(tiny_base),
        "--prompts", str(folder / "everyday.txt"),
        "--out", str(folder / "out.parquet"), "--counts", str(folder / "metrics.json"),
    ])
    stage.STAGE.main()
    assert len(tables.read("conversations", folder / "out.parquet")) == 4
    assert json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["kept"] == 4
