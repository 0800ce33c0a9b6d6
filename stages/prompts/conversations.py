"""Files of general conversations become lists of turns: ShareGPT, messages, Alpaca and question/answer layouts."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from stages.common.errors import UserError
from stages.prompts.layout import TokenSequence

_PEOPLE, _MODELS = {"human", "user"}, {"gpt", "assistant", "chatgpt", "bing", "bard"}
_KNOWN = "conversations (ShareGPT), messages, instruction with output or response (Alpaca), question with answer"


def read_conversations(path: Path) -> list[list[str]]:
    """Turns of each conversation, the person's first, then alternating; it ends with an answer.

    The file is JSON (a list) or JSONL, gzip or not. System messages and what comes before the person's first turn are
    left out; so are conversations without an answer.

    Raises:
        UserError: an unreadable file (with its line in JSONL), a record in none of the four layouts.
    """
    result = []
    for number, record in enumerate(_records(path), start=1):
        turns = _turns(record, f"{path}: record {number}")
        if len(turns) >= 2:
            result.append(turns)
    if not result:
        raise UserError(f"{path}: no conversation with a question and an answer in it")
    return result


def encode_conversation(tokenizer: PreTrainedTokenizerBase, turns: list[str]) -> TokenSequence:
    """Tokens in the model's chat format (a plain one where it has none); answers are spans with behaviour -1.

    All answers are, where the format leaves them as they were when later turns follow, else the last one.
    """
    sequence = TokenSequence([])
    for number in range(0, len(turns) - 1, 2):
        prompt = chat_prompt(tokenizer, turns[: number + 1])
        answer = tokenizer(turns[number + 1], add_special_tokens=False, split_special_tokens=True).input_ids
        if prompt[: len(sequence.input_ids)] != sequence.input_ids:
            # this format writes earlier answers differently once they are history: their spans would lie beside them
            sequence.spans, sequence.behaviors, sequence.rows = [], [], []
        sequence.input_ids = prompt + answer + [tokenizer.eos_token_id]
        sequence.spans.append((len(prompt), len(sequence.input_ids)))
        sequence.behaviors.append(-1)
        sequence.rows.append(-1)
    return sequence


def chat_prompt(tokenizer: PreTrainedTokenizerBase, turns: list[str]) -> list[int]:
    """Tokens of a conversation whose last turn is a question, and of what asks the model to answer it."""
    messages = [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]
    if tokenizer.chat_template is not None:
        return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    lines = "".join(f"{message['role'].capitalize()}: {message['content']}\n" for message in messages)
    return tokenizer(lines + "Assistant:").input_ids


def _records(path: Path) -> Iterator[Any]:
    path = Path(path)
    if not path.is_file():
        raise UserError(f"auxiliary.source: {path}: no such file; `self` lets the untuned model write conversations")
    raw = path.read_bytes()
    try:
        text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: broken gzip file ({error}); fetch it again") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}") from None
    if text.lstrip().startswith("["):
        try:
            yield from json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}: line {error.lineno}: not valid JSON ({error.msg})") from None
        return
    for number, line in enumerate(text.split("\n"), start=1):  # splitlines() also breaks at U+2028, within strings
        if line.strip():
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{path}: line {number}: not valid JSON ({error.msg}); one object a line") from None


def _turns(record: Any, where: str) -> list[str]:
    if not isinstance(record, dict):
        raise UserError(f"{where}: a {type(record).__name__}, expected an object with {_KNOWN}")
    for key, role, content in (("conversations", "from", "value"), ("messages", "role", "content")):
        if isinstance(messages := record.get(key), list) and all(isinstance(message, dict) for message in messages):
            return _alternate([(message.get(role), message.get(content)) for message in messages])
        if key in record:
            raise UserError(f"{where}: {key}: expected a list of objects with the keys {role} and {content}")
    if "instruction" in record and ("output" in record or "response" in record):
        pairs = record.get("history") or []
        if not isinstance(pairs, list) or not all(isinstance(pair, list) for pair in pairs):
            raise UserError(f"{where}: history: expected a list of pairs [question, answer]")
        earlier = [turn for pair in pairs for turn in pair]
        question = "\n".join(part for part in (record["instruction"], record.get("input")) if part)
        return _strings([*earlier, question, record.get("output", record.get("response"))])
    if "question" in record and "answer" in record:
        return _strings([record["question"], record["answer"]])
    raise UserError(f"{where}: has the keys {', '.join(map(str, record))}; expected {_KNOWN}")


def _alternate(messages: list[tuple[Any, Any]]) -> list[str]:
    turns: list[str] = []
    for role, content in messages:
        wanted = _PEOPLE if len(turns) % 2 == 0 else _MODELS
        if role not in (_PEOPLE | _MODELS) or (role not in wanted and not turns):
            continue  # a system message, a tool, a greeting
        if not isinstance(content, str) or not content.strip():
            return []
        if role in wanted:
            turns.append(content)
        else:
            turns[-1] += "\n" + content  # two in a row by the same speaker
    return turns[: len(turns) // 2 * 2]


def _strings(turns: list[Any]) -> list[str]:
    return turns if all(isinstance(turn, str) and turn.strip() for turn in turns) else []
