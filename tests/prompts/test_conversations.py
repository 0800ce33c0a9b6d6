import gzip
import json

import pytest

from stages.common.errors import UserError
from stages.prompts.conversations import encode_conversation, read_conversations

SHAREGPT = {"conversations": [
    {"from": "system", "value": "Be brief."}, {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."},
    {"from": "human", "value": "And you?"}, {"from": "gpt", "value": "Fine."},
]}
MESSAGES = {"messages": [
    {"role": "system", "content": ""}, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."},
]}
ALPACA = {"instruction": "Add", "input": "1 and 2", "output": "3", "history": [["Count", "1, 2"]]}
QUESTION = {"question": "Why?", "answer": "看情况。"}
TURNS = [
    ["Hi", "Hello.", "And you?", "Fine."], ["Hi", "Hello."], ["Count", "1, 2", "Add\n1 and 2", "3"],
    ["Why?", "看情况。"],
]


def write(path, records, lines):
    text = "\n".join(json.dumps(r, ensure_ascii=False) for r in records) if lines else json.dumps(records, indent=1)
    raw = text.encode()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def read(tmp_path, *records):
    return read_conversations(write(tmp_path / "chats.jsonl", records, lines=True))


@pytest.mark.parametrize("lines", [False, True])
@pytest.mark.parametrize("name", ["chats.json", "chats.json.gz"])
def test_all_four_layouts_in_json_and_jsonl_packed_or_not(tmp_path, name, lines):
    assert read_conversations(write(tmp_path / name, [SHAREGPT, MESSAGES, ALPACA, QUESTION], lines)) == TURNS


def test_alpaca_without_input_or_history_and_with_response(tmp_path):
    record = {"instruction": "Sing", "input": "", "response": "La.", "history": None}
    assert read(tmp_path, record) == [["Sing", "La."]]


def test_what_comes_before_the_first_question_is_left_out(tmp_path):
    record = {"conversations": [{"from": "gpt", "value": "Welcome!"}, *SHAREGPT["conversations"]]}
    assert read(tmp_path, record) == TURNS[:1]


def test_a_last_question_without_an_answer_is_left_out(tmp_path):
    record = {"conversations": [*SHAREGPT["conversations"], {"from": "human", "value": "Still there?"}]}
    assert read(tmp_path, record) == TURNS[:1]


def test_two_turns_in_a_row_by_one_speaker_are_one(tmp_path):
    record = {"messages": [
        {"role": "user", "content": "One"}, {"role": "user", "content": "Two"}, {"role": "tool", "content": "beep"},
        {"role": "assistant", "content": "Three"}, {"role": "assistant", "content": "Four"},
    ]}
    assert read(tmp_path, record) == [["One\nTwo", "Three\nFour"]]


@pytest.mark.parametrize("record", [
    {"messages": [{"role": "user", "content": "Hi"}]},
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": " "}]},
    {"messages": [{"role": "user", "content": None}, {"role": "assistant", "content": "Hello."}]},
    {"conversations": []},
    {"question": "Hi", "answer": ""},
    {"instruction": "", "output": "Hello."},
])
def test_conversations_without_an_answer_are_left_out(tmp_path, record):
    assert read(tmp_path, record, QUESTION) == TURNS[3:]
    with pytest.raises(UserError, match="chats.jsonl: no conversation with a question and an answer in it"):
        read(tmp_path, record)


@pytest.mark.parametrize("separator", ["\u2028", "\x85", "\x0b", "\f", "\x1e"])
def test_a_letter_that_only_looks_like_a_line_break_ends_no_record(tmp_path, separator):
    path = tmp_path / "chats.jsonl"
    line = f'{{"question": "Why?", "answer": "One{separator}two"}}'
    if separator < " ":  # JSON has those only in escapes
        line = json.dumps({"question": "Why?", "answer": f"One{separator}two"})
    path.write_text(f"{line}\r\n\n{line}\n", encoding="utf-8", newline="")
    assert read_conversations(path) == [["Why?", f"One{separator}two"]] * 2


def refused(path):
    with pytest.raises(UserError) as error:
        read_conversations(path)
    return str(error.value)


def test_an_unknown_layout_is_refused_with_its_keys_and_record(tmp_path):
    message = refused(write(tmp_path / "x.jsonl", [QUESTION, {"prompt": "Hi", "reply": "Hello."}], lines=True))
    assert "x.jsonl: record 2: has the keys prompt, reply; expected" in message and "ShareGPT" in message


@pytest.mark.parametrize(("record", "says"), [
    ("Hi", "record 1: a str, expected an object"),
    (["Hi", "Hello."], "record 1: a list, expected an object"),
    ({"conversations": "Hi"}, "record 1: conversations"),
    ({"conversations": None}, "record 1: conversations"),
    ({"messages": ["Hi", "Hello."]}, "record 1: messages"),
    ({"messages": {"role": "user"}}, "record 1: messages"),
    ({"instruction": "Add", "output": "3", "history": ["Count", 1]}, "record 1: history"),
])
def test_a_record_of_another_shape_is_refused_by_its_place(tmp_path, record, says):
    assert says in refused(write(tmp_path / "x.json", [record], lines=False))


def test_invalid_json_is_refused_with_its_line(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(QUESTION) + "\n\n{'question': 1}\n", encoding="utf-8")
    assert "x.jsonl: line 3: not valid JSON" in refused(path) and "one object a line" in refused(path)
    path.write_text('[\n{"question": "a",\n"answer" "b"}\n]', encoding="utf-8")
    assert "x.jsonl: line 3: not valid JSON" in refused(path)


def test_a_broken_gzip_file_is_refused(tmp_path):
    path = write(tmp_path / "x.json.gz", [QUESTION] * 50, lines=True)
    whole = path.read_bytes()
    for broken in (whole[:-12], whole[:10] + b"\0\0\0" + whole[13:], whole[:3]):
        path.write_bytes(broken)
        assert "x.json.gz: broken gzip file" in refused(path)


def test_a_file_that_is_missing_empty_or_no_text_is_refused(tmp_path):
    assert "auxiliary.source" in refused(tmp_path / "none.json") and "no such file" in refused(tmp_path / "none.json")
    (tmp_path / "empty.json").touch()
    assert "no conversation with a question and an answer" in refused(tmp_path / "empty.json")
    (tmp_path / "latin.json").write_bytes('{"question": "é"}'.encode("latin-1"))
    assert "latin.json: not UTF-8 at byte 14" in refused(tmp_path / "latin.json")


def test_a_byte_order_mark_is_no_content(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps([QUESTION]), encoding="utf-8-sig")
    assert read_conversations(tmp_path / "x.json") == TURNS[3:]


def test_a_conversation_is_rendered_whole_and_its_spans_are_the_answers(tokenizer):
    turns = ["Hi there", "Hello. How are you?", "Fine\nand you", "  Good, 看电影"]
    sequence = encode_conversation(tokenizer, turns)
    said = [tokenizer.decode(sequence.input_ids[start:end]) for start, end in sequence.spans]
    assert said == [turns[1] + "<|im_end|>", turns[3] + "<|im_end|>"]
    assert sequence.behaviors == [-1, -1]
    messages = [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]
    assert tokenizer.decode(sequence.input_ids) == tokenizer.apply_chat_template(messages, tokenize=False).rstrip("\n")


def test_without_a_chat_format_too_only_answers_are_spans(plain_tokenizer):
    turns = ["Hi there", "Hello. How are you?", "Fine", "Good"]
    sequence = encode_conversation(plain_tokenizer, turns)
    said = [plain_tokenizer.decode(sequence.input_ids[start:end]) for start, end in sequence.spans]
    assert said and set(said) <= {"Hello. How are you?<|im_end|>", "Good<|im_end|>"} and said[-1] == "Good<|im_end|>"
    assert len(said) == len(sequence.behaviors)
    assert plain_tokenizer.decode(sequence.input_ids).startswith("User: Hi there\nAssistant:")


def test_a_chat_format_that_rewrites_earlier_turns_puts_no_span_beside_an_answer(tiny_model):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    content = "message['content']"
    tokenizer.chat_template = tokenizer.chat_template.replace(content, f"{content}.replace('.', ' .')")
    for turns in (["Hi", "One. Two.", "So", "Three"], ["Hi", "One", "So", "Three"]):
        sequence = encode_conversation(tokenizer, turns)
        said = [tokenizer.decode(sequence.input_ids[start:end]) for start, end in sequence.spans]
        assert said == [f"{answer}<|im_end|>" for answer in ("One", "Three") if answer in turns]


def test_an_answer_holds_no_control_token_but_its_end(tokenizer):
    sequence = encode_conversation(tokenizer, ["Hi", "a<|im_end|>b"])
    ((start, end),) = sequence.spans
    assert sequence.input_ids[start:end].count(tokenizer.eos_token_id) == 1
