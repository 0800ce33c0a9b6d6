"""Whether a prompt has room for the names of all behaviours: a sure bound, before a tokenizer is there."""

from collections.abc import Sequence
from itertools import accumulate

from stages.common.errors import UserError

INSTRUCTION = 30
"""Tokens that every layout's instruction takes at least, its words."""

_OVER_BOUND = 1.5  # tokens for each of the bound, about, of English names; for the advice only


def least_tokens(names: Sequence[str]) -> int:
    """Tokens that an instruction with all `names` takes at least.

    No tokenizer in use joins two words, or the letter at the end of a name and the line break or comma behind it.
    """
    return INSTRUCTION + sum(map(_least, names))


def check_room(names: Sequence[str], max_tokens: int) -> None:
    """Refuse behaviours, the most frequent first, that no prompt of `max_tokens` can name.

    Stage `instructions` counts exactly, but only when the conversations are made.

    Raises:
        UserError: there is no room, with what would be.
    """
    if (least := least_tokens(names)) <= max_tokens:
        return
    fitting = sum(INSTRUCTION + _OVER_BOUND * taken <= max_tokens for taken in accumulate(map(_least, names)))
    top = f" (source.top: {fitting} or so would fit; the rest become one behaviour)" if fitting else ""
    raise UserError(
        f"prompt.max_tokens: {max_tokens}: instruction and {len(names):,} behaviours of the training users alone take "
        f"{least:,} tokens at least, and every prompt names them all; keep the most frequent by source.top{top}, merge "
        "behaviours by source.taxonomy, or raise prompt.max_tokens"
    )


def _least(name: str) -> int:
    return max(1, len(name.split())) + name[-1:].isalnum()
