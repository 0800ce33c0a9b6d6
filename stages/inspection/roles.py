"""Which column is the user's, the time, the place and the behaviour: by names, values and how often they come again.

What two columns could be almost alike is a question, not a guess.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import polars as pl

from stages.events.rules import missing
from stages.inspection.written import Way, day_of, is_clock, is_offset, twins, ways

# parts of names, and how much they say; the names are those of logs and data sets that are public
_USER = {"user": 4, "person": 4, "subject": 4, "participant": 4, "respondent": 4, "patient": 4, "customer": 4,
         "member": 4, "client": 3, "visitor": 4, "account": 3, "player": 4, "student": 4, "employee": 4, "uid": 4,
         "who": 4, "owner": 3, "caseid": 3, "email": 3, "imei": 3, "uuid": 2, "device": 3, "phone": 2, "household": 2}
_TIME = {"timestamp": 4, "datetime": 4, "time": 3, "start": 4, "begin": 4, "opened": 4, "date": 3, "when": 4,
         "occurred": 4, "created": 3, "ts": 3, "utc": 2, "day": 2, "at": 1, "uts": 4}
_LATER = ("end", "stop", "finish", "until", "clos", "modif", "updat", "exit", "birth", "regist", "load", "insert")
_BEHAVIOR = {"behavior": 5, "behaviour": 5, "activity": 5, "action": 4, "app": 4, "event": 4, "doing": 5, "what": 4,
             "task": 4, "category": 4, "label": 4, "verb": 4, "artist": 4, "screen": 3, "page": 3, "item": 3,
             "product": 3, "venue": 3, "poi": 3, "kind": 3, "type": 2, "title": 2, "name": 2, "code": 2, "state": 2}
_PLACE = {"place": 4, "location": 4, "where": 4, "room": 4, "area": 4, "city": 4, "region": 3, "venue": 2, "station": 3,
          "country": 2, "cell": 2, "site": 2}
_OFFSET = ("offset", "tz", "timezone", "utcdiff")
_NO_LABEL = ("duration", "seconds", "latitude", "longitude", "lat", "lon", "lng", "count", "price", "rating", "score",
             "version", "ip", "url", "session", "hash", "probability", "id")
_CLEARLY = 1.0  # points by which the best is ahead of the next


@dataclass(frozen=True)
class Question:
    """What the log does not say, or not clearly.

    Attributes:
        key: of `source`.
        text: the question.
        options: values that would fit; empty where they cannot be listed.
        guess: the value that is taken until it is answered; None for none.
    """

    key: str
    text: str
    options: tuple[str, ...] = ()
    guess: str | None = None


@dataclass
class Roles:
    """Values of keys of `source`, why each was chosen, and what is to be asked."""

    settings: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    questions: list[Question] = field(default_factory=list)
    aware: bool = False
    offsets: tuple[int, ...] = ()


class _Column:
    """What is known of a column."""

    def __init__(self, name: str, values: pl.Series):
        self.name, self.values = name, values
        self.words = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower()
        self.parts = [part for part in re.split(r"[^a-z0-9]+", self.words) if part]
        self.flat = "".join(self.parts)
        # Polars panics over the text of some zones
        text = (values.to_physical() if isinstance(values.dtype, pl.Datetime) else values).cast(pl.String)
        kept = text.to_frame("text").filter(~missing(pl.col("text")))["text"].str.strip_chars()
        self.rows, self.kept, self.distinct = len(values), len(kept), kept.n_unique()
        numbers = kept.cast(pl.Float64, strict=False)
        self.numeric = self.kept > 0 and numbers.is_not_null().mean() > 0.95
        self.whole = self.numeric and bool(((numbers.round() - numbers).abs() < 1e-9).fill_null(True).all())
        self.length = (kept.str.len_chars().mean() or 0) if self.kept else 0
        self.runs = int((text != text.shift()).sum()) + 1 if self.rows else 0

    @property
    def again(self) -> float:
        """How often a value comes, on average."""
        return self.kept / max(self.distinct, 1)

    def says(self, hints: dict[str, int]) -> float:
        """How much the name says for a role: as a word, or within a word where it is long."""
        best = 0.0
        for hint, points in hints.items():
            if hint in self.parts or self.flat == hint:
                best = max(best, points)
            elif len(hint) > 3 and hint in self.flat:
                best = max(best, points - 0.5)
        return best


def roles(columns: dict[str, pl.Series], with_user: bool = True) -> Roles:
    """The roles of a table's columns; without a user where it is known that no column says it."""
    found, known = Roles(), [_Column(name, values) for name, values in columns.items()]
    several = [each for each in known if each.name.endswith(".*")]  # in lists: behaviours alone may be
    free = list(_times([each for each in known if each not in several], found))
    offset = next((each for each in free if any(hint in each.flat for hint in _OFFSET) and is_offset(each.values)),
                  None)
    if offset is not None:
        found.settings["columns.offset"] = offset.name
        found.reasons["columns.offset"] = "each row's offset from UTC"
        free.remove(offset)
    user = _choose(free, _user_points, "user", "Which column says whose a row is?", found) if with_user else None
    if user is not None:
        free.remove(user)
    behavior = _choose(free + several, _behavior_points, "behavior", "Which column is what is done?", found)
    free = [each for each in free if each is not behavior]
    _place(free, found)
    return found


def _times(known: list[_Column], found: Roles) -> Iterator[_Column]:
    """Choose the time, and a clock beside it; yields the columns that are none."""
    clocks = [each for each in known if is_clock(each.values)]
    rest = [each for each in known if each not in clocks]
    readable = {each.name: read for each in rest if (read := ways(each.values))}
    yield from (each for each in rest if each.name not in readable or _may_be_id(each, readable[each.name]))
    candidates = [each for each in rest if each.name in readable]
    points = {each.name: _time_points(each, readable[each.name]) for each in candidates}
    candidates.sort(key=lambda each: -points[each.name])
    candidates = [each for each in candidates if points[each.name] > 0]
    if not candidates:
        found.questions.append(Question("columns.time", "No column can be read as times. Which one is, and how is it "
                                        "written (time_format)?", tuple(each.name for each in known)))
        return
    best = candidates[0]
    _set(found, "columns.time", best.name, _reason(best, readable[best.name]))
    alike = [each for each in candidates if points[best.name] - points[each.name] < _CLEARLY]
    if len(alike) > 1:
        earlier = _earlier(alike[0], alike[1], readable)
        if earlier is not None:
            _set(found, "columns.time", earlier.name, f"it is never after {_other(alike, earlier).name!r}")
            best = earlier
        else:
            found.questions.append(Question("columns.time", "Which column says when an event begins?",
                                            tuple(each.name for each in alike), best.name))
    _written(best, readable[best.name], clocks, found)


def _may_be_id(column: _Column, read: list[Way]) -> bool:
    """Numbers that could be days (20240301) may be anything."""
    return column.numeric and all(way.format == "%Y%m%d" for way in read)


def _time_points(column: _Column, read: list[Way]) -> float:
    points = column.says(_TIME)
    if any(hint in column.flat for hint in _LATER):
        points -= 3
    if _may_be_id(column, read) and not points:
        return 0
    return points + (1 if read[0].days else 2) + 1e-3 * (not column.numeric)


def _earlier(one: _Column, other: _Column, readable: dict[str, list[Way]]) -> _Column | None:
    """The one of two columns of like format that is the beginning of what the other ends."""
    if readable[one.name][0].format != readable[other.name][0].format or one.values.dtype != other.values.dtype:
        return None
    pairs = pl.DataFrame({"one": one.values, "other": other.values}).drop_nulls()
    if not pairs.height or readable[one.name][0].format not in ("iso", "unix", "unix_ms", "unix_us", "unix_ns"):
        return None
    first, later = (pairs["one"] <= pairs["other"]).mean(), (pairs["other"] <= pairs["one"]).mean()
    if first > 0.99 and later < 0.9:
        return one
    return other if later > 0.99 and first < 0.9 else None


def _other(two: list[_Column], one: _Column) -> _Column:
    return two[1] if two[0] is one else two[0]


def _written(column: _Column, read: list[Way], clocks: list[_Column], found: Roles) -> None:
    same = twins(read)
    if len(same) > 1 and (way := day_of(column.values, same)) is not None:
        read = [way]
        _set(found, "columns.time", column.name, f"times that can be read as {way.format}: the day takes more values "
             "than the month")
    way = read[0]
    found.aware, found.offsets = way.aware, way.offsets
    if way.format != "iso":
        _set(found, "time_format", way.format, "so its values can be read")
    if len(same := twins(read)) > 1:
        found.questions.append(Question("time_format", f"In column {column.name!r} day and month could be either way "
                                        "round. Which is it?", tuple(each.format for each in same), way.format))
    elif len(read) > 1:
        found.questions.append(Question("time_format", f"Column {column.name!r} can be read in several ways. Which?",
                                        tuple(each.format for each in read), way.format))
    if not way.days:
        return
    clocks = sorted(clocks, key=lambda each: -_time_points(each, [way]))
    if clocks:
        _set(found, "columns.clock", clocks[0].name, f"times of day, where {column.name!r} has days")
        if len(clocks) > 1 and _time_points(clocks[0], [way]) - _time_points(clocks[1], [way]) < _CLEARLY:
            found.questions.append(Question("columns.clock", "Which column is the time of day at which an event "
                                            "begins?", tuple(each.name for each in clocks), clocks[0].name))
    else:
        _set(found, "dates", "midnight", "until it is answered")
        found.questions.append(Question(
            "dates", f"Column {column.name!r} has days without an hour, and hours are half of what a prediction goes "
            "by. Is there no column with the time of day (columns.clock)? Else set dates to midnight",
            ("refuse", "midnight"), "midnight"))


def _user_points(column: _Column) -> float:
    """Above 0 for what may be a user's id."""
    points = column.says(_USER)
    if column.distinct < 1 or column.kept < 0.9 * column.rows or (column.numeric and not column.whole and not points):
        return 0
    if points and column.distinct == column.rows and column.rows > 5:
        points -= 3
    if column.parts and column.parts[-1] in ("id", "hash", "pseudonym") and not points:
        points = 1
    if not points:  # what is named for something else is none
        points = -max(column.says(_BEHAVIOR), column.says(_PLACE))
    if column.distinct > 1 and column.again >= 3:
        points += 1
        points += 0.5 * (column.runs < column.rows / 3)  # one person after the other
    elif not points or column.distinct == 1:
        points -= 0.5
    return max(points, 0)


def _behavior_points(column: _Column) -> float:
    """Above 0 for what may be a behaviour."""
    if column.distinct < 2 or column.kept < 0.5 * column.rows:
        return 0
    points = column.says(_BEHAVIOR) + (column.again >= 2) + (column.again >= 4)
    if column.numeric:
        points -= 2 if column.whole else 4
    if column.length > 60:
        points -= 2
    if column.name.rpartition(".")[2].lower() in _NO_LABEL or (column.parts and column.parts[-1] in _NO_LABEL):
        points -= 2
    return max(points - column.says(_PLACE) / 2, 0)


def _choose(free: list[_Column], points_of, role: str, question: str, found: Roles) -> _Column | None:
    points = sorted(((points_of(each), each) for each in free), key=lambda each: -each[0])
    points = [each for each in points if each[0] > 0]
    named = "an id" if role == "user" else "what is done"
    if not points:
        found.questions.append(Question(f"columns.{role}", f"{question} No column looks like {named}.",
                                        tuple(each.name for each in free)))
        return None
    best, column = points[0]
    rivals = [each.name for other, each in points if best - other < _CLEARLY]
    hinted = column.says(_USER if role == "user" else _BEHAVIOR)
    reason = f"{column.distinct:,} values, each {column.again:,.0f} times on average"
    _set(found, f"columns.{role}", column.name, f"its name, and {reason}" if hinted else reason)
    if len(rivals) > 1 or not hinted:
        options = rivals if len(rivals) > 1 else [each.name for _, each in points[:4]]
        found.questions.append(Question(f"columns.{role}", question, tuple(options), column.name))
    return column


def _place(free: list[_Column], found: Roles) -> None:
    points = sorted(((each.says(_PLACE) - 2 * each.numeric, each) for each in free if each.distinct > 1),
                    key=lambda each: -each[0])
    points = [each for each in points if each[0] >= 2]
    if not points:
        _set(found, "columns.place", "", "no column is named like a place")
        return
    best, column = points[0]
    _set(found, "columns.place", column.name, f"its name, and {column.distinct:,} values")
    rivals = [each.name for other, each in points if best - other < _CLEARLY]
    if len(rivals) > 1:
        found.questions.append(Question("columns.place", "Which column is the place (or none: '')?", tuple(rivals),
                                        column.name))


def _set(found: Roles, key: str, value: str, reason: str) -> None:
    found.settings[key], found.reasons[key] = value, reason


def _reason(column: _Column, read: list[Way]) -> str:
    kind = "days" if read[0].days else "times"
    return f"{kind} that can be read as {read[0].format}" + (", with offsets or counted from UTC" * read[0].aware)
