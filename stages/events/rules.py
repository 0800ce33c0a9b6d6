"""Why a row of a log is refused, and the checks of labels and users that decide it."""

from enum import StrEnum

import polars as pl

from stages.common.names import CONTROL

LONGEST = 100  # characters of a label

MISSING = ["", "nan", "null", "none", "n/a"]
# the marks of the usual chat templates: ChatML and Llama 3, Llama 2 and Mistral, Gemma, DeepSeek, sentencepiece
CHAT = r"(?i)<\|[^|]*\|>|<｜[^｜]*｜>|</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|<(?:bos|eos|pad|unk)>"


class Rule(StrEnum):
    """The rules; each value stands in the table `quarantine`."""

    FIELDS = "wrong number of fields"
    QUOTES = "quotes that do not close on the line"
    JSON = "not a JSON object"
    EVENT_TYPE = "not an opening"
    NO_USER = "no user"
    NO_TIME = "no time"
    TIME = "unreadable time"
    TIME_RANGE = "time outside 1990 to 2100"
    OFFSET = "time with an offset, and source.time_zone is empty"
    NO_BEHAVIOR = "no behaviour"
    CONTROL = "control character or line break in a label"
    CHAT = "chat-template token in a label"
    LONG = f"label longer than {LONGEST} characters"
    TAXONOMY = "not in the taxonomy"
    DUPLICATE = "duplicate of an earlier row"


# Rows that are no events by the format's own definition: kept in quarantine, not counted as refused
IGNORED = (Rule.EVENT_TYPE,)

# What to look at when a rule refuses too much
CURES = {
    Rule.FIELDS: "the file is damaged, or not of source.format",
    Rule.QUOTES: "a record must stand on one line, and a quote within quotes must be doubled",
    Rule.JSON: "each line must hold one JSON object",
    Rule.NO_USER: "check source.columns.user",
    Rule.NO_TIME: "check source.columns.time",
    Rule.TIME: "check source.time_format",
    Rule.TIME_RANGE: "check source.time_format: unix counts seconds, unix_ms milliseconds",
    Rule.OFFSET: "set source.time_zone to the people's time zone, such as Europe/Berlin",
    Rule.NO_BEHAVIOR: "check source.columns.behavior",
    Rule.CONTROL: "clean the labels, or map them with a taxonomy",
    Rule.CHAT: "clean the labels: such marks would end the model's turn",
    Rule.LONG: "check source.columns.behavior, or map the labels with a taxonomy",
    Rule.TAXONOMY: "add the names to the taxonomy, or set source.taxonomy to none",
    Rule.DUPLICATE: "rows that agree in every column count once; remove the second copy of the data",
}


def missing(text: pl.Expr) -> pl.Expr:
    """Whether a field says nothing: null, blank, or one of the words that programs write for it."""
    return text.is_null() | text.str.strip_chars().str.to_lowercase().is_in(MISSING)


def clean(text: pl.Expr) -> pl.Expr:
    """White space collapsed and stripped, characters composed (NFC)."""
    return text.str.replace_all(r"\s+", " ").str.strip_chars().str.normalize("NFC")


def label_rule(text: pl.Expr) -> pl.Expr:
    """The rule that a label breaks, or null. White space around it does not count."""
    text = text.str.strip_chars()
    return (
        pl.when(text.str.contains(CONTROL)).then(pl.lit(Rule.CONTROL.value))
        .when(text.str.contains(CHAT)).then(pl.lit(Rule.CHAT.value))
        .when(text.str.len_chars() > LONGEST).then(pl.lit(Rule.LONG.value))
    )
