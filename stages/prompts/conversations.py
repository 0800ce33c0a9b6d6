"""Files of general conversations become lists of turns: ShareGPT, messages, Alpaca and question/answer layouts."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from stages.common.errors import UserError
from stages.prompts.layouts import TokenSequence

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
    """Tokens in the model's chat format (a plain one where it has none); every answer is a span with behaviour -1."""
    template = tokenizer.chat_template is not None
    sequence = TokenSequence([])
    for number in range(0, len(turns) - 1, 2):
        if template:
            told = [
                {"role": "user" if i % 2 == 0 else "assistant", "content": turn}
                for i, turn in enumerate(turns[: number + 1])
            ]
            prompt = tokenizer.apply_chat_template(told, add_generation_prompt=True, return_dict=True)["input_ids"]
        else:
            told = "".join(f"{'User' if i % 2 == 0 else 'Assistant'}: {t}\n" for i, t in enumerate(turns[: number + 1]))
            prompt = tokenizer(told + "Assistant:").input_ids
        answer = tokenizer(turns[number + 1], add_special_tokens=False, split_special_tokens=True).input_ids
        sequence.input_ids = prompt + answer + [tokenizer.eos_token_id]
        sequence.spans.append((len(prompt), len(sequence.input_ids)))
        sequence.behaviors.append(-1)
    return sequence


def _records(path: Path) -> Iterator[Any]:
    path = Path(path)
    if not path.is_file():
        raise UserError(f"auxiliary.source: {path}: no such file; `self` lets the untuned model write the conversations")
    try:
        raw = path.read_bytes()
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
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{path}: line {number}: not valid JSON ({error.msg}); one object a line") from None


def _turns(record: Any, where: str) -> list[str]:
    if not isinstance(record, dict):
        raise UserError(f"{where}: a {type(record).__name__}, expected an object with {_KNOWN}")
    if "conversations" in record:
        return _alternate([(m.get("from"), m.get("value")) for m in record["conversations"]])
    if "messages" in record:
        return _alternate([(m.get("role"), m.get("content")) for m in record["messages"]])
    if "instruction" in record and ("output" in record or "response" in record):
        earlier = [turn for pair in record.get("history") or [] for turn in pair]
        question = "\n".join(part for part in (record["instruction"], record.get("input")) if part)
        return _strings([*earlier, question, record.get("output", record.get("response"))])
    if "question" in record and "answer" in record:
        return _strings([record["question"], record["answer"]])
    raise UserError(f"{where}: has the keys {', '.join(map(str, record))}; expected {_KNOWN}")


def _alternate(messages: list[tuple[Any, Any]]) -> list[str]:
    turns: list[str] = []
    for role, content in messages:
        if not isinstance(content, str) or not content.strip():
            return []
        wanted = _PEOPLE if len(turns) % 2 == 0 else _MODELS
        if role in wanted:
            turns.append(content)
        elif turns and role in (_PEOPLE | _MODELS):
            turns[-1] += "\n" + content  # two in a row by the same speaker
    return turns[: len(turns) // 2 * 2]


def _strings(turns: list[Any]) -> list[str]:
    return turns if all(isinstance(turn, str) and turn.strip() for turn in turns) else []
