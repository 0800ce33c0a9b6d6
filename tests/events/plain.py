"""What `read_log` and `windows` do, row by row, as plainly as Python can say it: the fast code is held against it."""

import re
import unicodedata
from datetime import datetime

from stages.common.hashing import bits, pseudonym
from stages.events.rules import LONGEST, Rule

MISSING = {word for each in ("nan", "null", "none", "n/a") for word in (each, each.upper())} | {"", "NaN", "None"}
# times that tests write, and what becomes of them
TIMES = {
    "2024-03-01 09:00:00": datetime(2024, 3, 1, 9), "2024-03-01T09:00": datetime(2024, 3, 1, 9),
    " 2024-03-01 09:00:00": datetime(2024, 3, 1, 9), "2024-03-02 00:00:00": datetime(2024, 3, 2),
    "2023-12-31 23:59:59.5": datetime(2023, 12, 31, 23, 59, 59, 500_000), "x": Rule.TIME, "2024-03-01": Rule.DATE,
    "1e9": Rule.TIME, "": Rule.NO_TIME, "NULL": Rule.NO_TIME, "2024-03-01T09:00:00+01:00": Rule.OFFSET,
    "1989-12-31 23:59:59": Rule.TIME_RANGE, "2101-01-01 00:00:00": Rule.TIME_RANGE,
}


def plain_log(files: list[tuple[str, bytes]], separator: str) -> tuple[list[tuple], list[tuple]]:
    """Events (user, time, place, behavior) and quarantine (file, line, rule, field at fault) of files with the header
    user, time, place, behavior."""
    events, quarantine, seen = [], [], set()
    for name, content in files:
        for number, line in enumerate(content.decode().split("\n")[1:], start=2):
            line = line.rstrip("\r")
            if not line.strip():
                continue
            fields, rule = _fields(line, separator)
            event, rule, field = _event(fields) if rule is None else (None, rule, "")
            if rule is None and (event[:2], tuple(fields)) in seen:
                rule = Rule.DUPLICATE
            if rule is None:
                seen.add((event[:2], tuple(fields)))
                events.append(event)
            else:
                quarantine.append((name, number, str(rule), field if len(field) <= LONGEST else field[:LONGEST] + "…"))
    events = [(*event[:2], place, behavior, *event[4:]) for event, place, behavior in zip(
        events, _spelt([event[2] for event in events], "unknown"), _spelt([event[3] for event in events]), strict=True)]
    return sorted(events, key=lambda event: event[:2]), quarantine


def _spelt(labels: list[str], fixed: str | None = None) -> list[str]:
    """Each label in the spelling that is most frequent among those that differ from it in case only."""
    return [min((other for other in labels if other.casefold() == label.casefold()),
                key=lambda other: (other != fixed, -labels.count(other), other)) for label in labels]


def _fields(line: str, separator: str) -> tuple[list[str], Rule | None]:
    mark = re.escape(separator)
    pieces = re.findall(rf'{mark}(?:[ ]*"(?:[^"]|"")*"[ ]*|[^{mark}"][^{mark}]*|)', separator + line)
    if "".join(pieces) != separator + line:
        return [], Rule.QUOTES
    if len(pieces) != 4:
        return [], Rule.FIELDS
    fields = [piece[1:] for piece in pieces]
    return [f.strip(" ")[1:-1].replace('""', '"') if f.strip(" ")[:1] == '"' else f for f in fields], None


def _event(fields: list[str]) -> tuple[tuple | None, Rule | None, str]:
    """An event, or the rule that is broken and what is shown of it."""
    user, time, place, behavior = fields
    if _missing(user):
        return None, Rule.NO_USER, ""
    if isinstance(TIMES[time], Rule):
        return None, TIMES[time], _shape(time) if TIMES[time] is Rule.TIME else time
    if _missing(behavior):
        return None, Rule.NO_BEHAVIOR, behavior
    area = "unknown" if _missing(place) else _clean(place)
    if rule := _label_rule(behavior):
        return None, rule, behavior
    if rule := _label_rule(area):
        return None, rule, place
    return (pseudonym(user.strip()), TIMES[time], area, _clean(behavior)), None, ""


def _shape(text: str) -> str:
    return "".join("a" if letter.isalpha() else "9" if letter.isdecimal() else letter for letter in text)


def _missing(text: str) -> bool:
    return text.strip() in MISSING


def _clean(text: str) -> str:
    return unicodedata.normalize("NFC", re.sub(r"\s+", " ", text).strip())


def _label_rule(text: str) -> Rule | None:
    text = text.strip()
    if any(ord(c) < 32 or 127 <= ord(c) < 160 or c in "\u2028\u2029" for c in text):
        return Rule.CONTROL
    if re.search(r"<\|[^|]*\|>|</?s>", text):
        return Rule.CHAT
    return Rule.LONG if len(text) > LONGEST else None


def plain_windows(
    events: list[tuple], split: dict[int, str], seed: int, min_history: int, natural: int, per_behavior: int,
) -> tuple[dict[str, list[int]], dict[str, int]]:
    """Rows of each split's windows, and windows outside the vocabulary by label, for sorted events and splits."""
    known = {event[3] for event in events if split[event[0]] == "train"}
    rows, strange, seen, test = {"train": [], "valid": [], "valid_outside": []}, {}, {}, []
    for row, (user, time, _, behavior) in enumerate(events):
        position = seen[user] = seen.get(user, -1) + 1
        if position < min_history:
            continue
        if behavior not in known:
            strange[behavior] = strange.get(behavior, 0) + 1
        if split[user] == "test":
            micros = (time - datetime(1970, 1, 1)).total_seconds() * 1_000_000
            draws = [int(bits(seed, purpose, user, int(micros), position)) for purpose in (201, 202)]
            test.append((draws, behavior, row))
        else:
            rows[split[user] if behavior in known else "valid_outside"].append(row)
    test.sort(key=lambda window: window[0][0])
    size, taken = min(natural, len(test) // 2), {}
    rows["natural"] = sorted(row for _, _, row in test[:size])
    for _, behavior, row in sorted(test[size:], key=lambda window: window[0][1]):
        if behavior in known:
            taken.setdefault(behavior, []).append(row)
    rows["balanced"] = sorted(row for of_one in taken.values() for row in of_one[:per_behavior])
    return rows, strange
