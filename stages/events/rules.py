"""Why a row of a log is refused, and the checks of labels and users that decide it."""

from enum import StrEnum

import polars as pl

from stages.common.names import CONTROL

LONGEST = 100  # characters of a label
FIRST_YEAR, LAST_YEAR = 1990, 2100  # of a log

# as programs write nothing; so a person called Nan or Null is one
MISSING = ["", "nan", "NaN", "NAN", "null", "NULL", "none", "None", "NONE", "n/a", "N/A"]
# the marks of the usual chat templates: ChatML and Llama 3, Llama 2 and Mistral, Gemma, DeepSeek, sentencepiece
CHAT = r"(?i)<\|[^|]*\|>|<｜[^｜]*｜>|</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|<(?:bos|eos|pad|unk)>"


class Rule(StrEnum):
    """The rules: each one's value stands in the table `quarantine`, its `cure` in the error when it refuses much."""

    cure: str

    def __new__(cls, value: str, cure: str = ""):
        rule = str.__new__(cls, value)
        rule._value_, rule.cure = value, cure
        return rule

    FIELDS = "wrong number of fields", "the file is damaged, or not of source.format"
    QUOTES = ("quotes that do not close on the line",
              "a record must stand on one line, and a quote within quotes must be doubled")
    JSON = "not a JSON object", "each line must hold one JSON object"
    NESTED = ("an object, a list, true or false where text or a number is needed",
              "name a field within it in source.columns, such as data.app")
    TEXT = "no text: bytes that are no UTF-8, or half a character", "export the column as text in UTF-8"
    EVENT_TYPE = "not an opening", "such rows are no events"
    NO_EVENT = "no event, by its format's definition", "the format's file in stages/events/formats says which rows are"
    NO_USER = "no user", f"check source.columns.user; an empty field is no user, nor is {', '.join(MISSING[1:])}"
    ROUNDED = ("a user's number that has lost its last digits",
               "export ids as whole numbers or as text: a float of 64 bits tells whole numbers apart below 2^53, one "
               "of 32 bits below 2^24, and spreadsheets write 1.5E+15")
    NO_TIME = "no time", "check source.columns.time"
    TIME = "unreadable time", "check source.columns.time and source.time_format (a letter is shown as a, a digit as 9)"
    DATE = ("a day without an hour",
            "name the column with the time of day in source.columns.clock, or set source.dates to midnight")
    TIME_RANGE = (f"time outside {FIRST_YEAR} to {LAST_YEAR}",
                  "check source.time_format: unix counts seconds, unix_ms, unix_us and unix_ns thousandths and so on")
    OFFSET = ("time with an offset, and source.time_zone is empty",
              "set source.time_zone to the people's time zone, such as Europe/Berlin")
    NO_OFFSET = ("no offset from UTC", "an offset is Z, +05:30, hours (5.5) or minutes (330), from -12:00 to +14:00")
    WITHOUT_OFFSET = ("time whose offset is not known", "the row has none, and source.time_zone names no zone: set it")
    NO_BEHAVIOR = "no behaviour", "check source.columns.behavior"
    CONTROL = "control character or line break in a label", "clean the labels, or map them with a taxonomy"
    CHAT = "chat-template token in a label", "clean the labels: such marks would end the model's turn"
    LONG = f"label longer than {LONGEST} characters", "check source.columns.behavior, or map the labels with a taxonomy"
    TAXONOMY = "not in the taxonomy", "add the names to the taxonomy, or set source.unlisted to keep or other"
    DUPLICATE = ("duplicate of an earlier row",
                 "rows that agree in every column count once; remove the second copy of the data")
    COPY = "copy of an earlier event", "rows that agree in source.event_columns count once"


# What is wrong is the time: of a row that breaks such a rule, messages and the quarantine show the time as written
OF_THE_TIME = tuple(rule.value for rule in (Rule.NO_TIME, Rule.TIME, Rule.DATE, Rule.TIME_RANGE, Rule.OFFSET,
                                             Rule.NO_OFFSET, Rule.WITHOUT_OFFSET))

# Rows that are no events by the format's own definition or the user's: kept in quarantine, not counted as refused
IGNORED = (Rule.EVENT_TYPE, Rule.NO_EVENT, Rule.COPY)


def missing(text: pl.Expr) -> pl.Expr:
    """Whether a field says nothing: null, blank, or one of the words that programs write for it, spelt as they do."""
    return text.is_null() | text.str.strip_chars().is_in(MISSING)


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
