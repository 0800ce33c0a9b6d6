"""Small logs of known kind: every export, and tables in many shapes with columns of many names, noise beside them."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from tests.events import exported

# some of them no list of hints has
USERS = ["user_id", "uid", "participant", "subject", "userId", "person", "customer_id", "member", "device_id",
         "respondent", "handle", "panelist", "ID", "pseudonym"]
TIMES = ["timestamp", "time", "start_time", "datetime", "created_at", "opened_at", "when", "startTime", "event_time",
         "zeit", "t0", "recorded"]
BEHAVIORS = ["behavior", "activity", "app_name", "event", "action", "category", "what", "label", "page", "task",
             "choice", "now", "tätigkeit"]
PLACES = ["place", "location", "room", "city", "where", "area"]
LABELS = ["Reading", "Cooking", "Drinking coffee", "Gaming", "Commuting", "Sleeping", "Shopping", "Running"]
WHERE = ["home", "work", "gym", "on the way"]
WAYS: dict[str, Callable[[datetime], str]] = {
    "iso": lambda time: time.strftime("%Y-%m-%d %H:%M:%S"),
    "iso ": lambda time: time.strftime("%Y-%m-%dT%H:%M:%SZ"),
    "unix": lambda time: str(int(time.timestamp())),
    "unix_ms": lambda time: str(int(time.timestamp() * 1000)),
    "%d.%m.%Y %H:%M": lambda time: time.strftime("%d.%m.%Y %H:%M"),
    "%m/%d/%Y %I:%M:%S %p": lambda time: time.strftime("%m/%d/%Y %I:%M:%S %p"),
    "%Y%m%d%H%M%S": lambda time: time.strftime("%Y%m%d%H%M%S"),
}


@dataclass
class Made:
    """A log: what it is, and answers to what it does not say."""

    path: Path
    format: str
    columns: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)


def rows(rng: random.Random, names: dict[str, str], way: str) -> list[dict[str, str]]:
    """Rows of a log, columns in any order, with columns that are none of a log's."""
    noise = {"duration_s": lambda: f"{rng.uniform(1, 900):.1f}", "battery": lambda: str(rng.randint(1, 100)),
             "session_id": lambda: f"{rng.getrandbits(48):012x}", "lat": lambda: f"{rng.uniform(48, 49):.5f}",
             "os": lambda: rng.choice(["android", "ios"]), "version": lambda: rng.choice(["1.2", "1.3"])}
    extra = rng.sample(list(noise), 3)
    order = [*names.values(), *extra]
    rng.shuffle(order)
    found = []
    for person, time, _ in exported.made(rng, rng.randint(3, 6)):
        row = {names["time"]: WAYS[way](time), names["behavior"]: rng.choice(LABELS)}
        if "user" in names:
            row[names["user"]] = person
        if "place" in names:
            row[names["place"]] = rng.choice(WHERE)
        row |= {name: noise[name]() for name in extra}
        found.append({name: row[name] for name in order})
    return found


def chosen(rng: random.Random, user: bool = True) -> dict[str, str]:
    names = {"time": rng.choice(TIMES), "behavior": rng.choice(BEHAVIORS)}
    names |= {"user": rng.choice(USERS)} if user else {}
    return names | ({"place": rng.choice(PLACES)} if rng.random() < 0.6 else {})


def _text(folder: Path, content: str, name: str = "log.csv") -> Path:
    (folder / name).write_text(content, encoding="utf-8")
    return folder / name


def _lines(made: list[dict[str, str]], mark: str, quoted: bool = False) -> list[str]:
    return [mark.join(f'"{value}"' if quoted and " " in value else value for value in row.values()) for row in made]


def separated(mark: str, name: str) -> Callable[[Path, random.Random, dict[str, str], list[dict[str, str]]], Made]:
    def write(folder: Path, rng: random.Random, names: dict[str, str], made: list[dict[str, str]]) -> Made:
        lines = [mark.join(made[0]), *_lines(made, mark)]
        return Made(_text(folder, "\n".join(lines) + "\n", name), "table", names)

    return write


def preamble(folder, rng, names, made):
    lines = ["Exported by a program", "Version, 3", "", ",".join(made[0]), *_lines(made, ",")]
    return Made(_text(folder, "\n".join(lines)), "table", names, {"skip": 3})


def headless(folder, rng, names, made):
    order = list(made[0])
    columns = {ours: str(order.index(theirs) + 1) for ours, theirs in names.items()}
    return Made(_text(folder, "\n".join(_lines(made, ","))), "table", columns, {"header": False})


def blanks(folder, rng, names, made):
    lines = ["  ".join(made[0]), *_lines(made, "  ", quoted=True)]
    return Made(_text(folder, "\n".join(lines), "log.txt"), "table", names, {"separator": "blanks"})


def json_lines(folder, rng, names, made):
    return Made(_text(folder, "\n".join(map(json.dumps, made)), "log.jsonl"), "table", names)


def json_list(folder, rng, names, made):
    return Made(_text(folder, json.dumps(made, indent=2), "log.json"), "table", names)


def document(folder, rng, names, made):
    nested = [{names["time"]: row[names["time"]], "data": {
        key: value for key, value in row.items() if key != names["time"]}} for row in made]
    columns = {ours: theirs if ours == "time" else f"data.{theirs}" for ours, theirs in names.items()}
    return Made(_text(folder, json.dumps({"version": 1, "export": {"records": nested}}), "log.json"), "table", columns,
                {"events": "export.records"})


def parquet(folder, rng, names, made):
    pl.DataFrame(made).write_parquet(folder / "log.parquet")
    return Made(folder / "log.parquet", "table", names)


def files(folder, rng, names, made):
    user, rest = names["user"], {ours: theirs for ours, theirs in names.items() if ours != "user"}
    for person in {row[user] for row in made}:
        own = [{key: value for key, value in row.items() if key != user} for row in made if row[user] == person]
        (folder / f"{person}.csv").write_text("\n".join([",".join(own[0]), *_lines(own, ",")]))
    return Made(folder, "table", rest, {"person": "file"}, {"person": "file"})


def day_and_clock(folder, rng, names, made):
    times = [datetime.strptime(row[names["time"]], "%Y-%m-%d %H:%M:%S") for row in made]
    split = [{**{key: value for key, value in row.items() if key != names["time"]}, "date": f"{time:%Y-%m-%d}",
              "clock": f"{time:%H:%M:%S}"} for row, time in zip(made, times, strict=True)]
    return Made(_text(folder, "\n".join([",".join(split[0]), *_lines(split, ",")])), "table",
                {**names, "time": "date", "clock": "clock"})


TABLES = {"csv": separated(",", "log.csv"), "tsv": separated("\t", "log.tsv"), "semicolons": separated(";", "log.csv"),
          "bars": separated("|", "log.txt"), "preamble": preamble, "no header": headless, "blanks": blanks,
          "JSON Lines": json_lines, "JSON list": json_list, "document": document, "Parquet": parquet, "files": files,
          "day and clock": day_and_clock}


def nyc(folder: Path, rng: random.Random) -> exported.Export:
    exported.foursquare_tokyo(folder, rng)
    path = folder / "dataset_TSMC2014_TKY.txt"
    path.write_bytes(path.read_bytes().replace(b"\t540\t", b"\t-240\t"))
    return exported.Export({}, [])


def lsapp(folder: Path, rng: random.Random) -> exported.Export:
    exported.tsv(folder / "lsapp.tsv", [["user_id", "session_id", "timestamp", "app_name", "event_type"], *(
        [person, 1, f"{time:%Y-%m-%d %H:%M:%S}", app, "Opened"] for person, time, app in exported.made(rng, 3))])
    return exported.Export({}, [])


def app_usage(folder: Path, rng: random.Random) -> exported.Export:
    exported.tsv(folder / "trace.txt", [[person, f"{time:%Y%m%d%H%M%S}", 77, rng.randint(1, 9), 100]
                                        for person, time, _ in exported.made(rng, 3)], " ")
    return exported.Export({}, [])


EXPORTS = exported.WRITERS | {"foursquare_nyc": nyc, "lsapp": lsapp, "app_usage": app_usage}


def write(number: int, folder: Path) -> Made:
    """Log 0 to 59."""
    rng = random.Random(number)
    folder.mkdir()
    if number < len(EXPORTS):
        name = list(EXPORTS)[number]
        export = EXPORTS[name](folder, rng)
        inside = [path for path in folder.iterdir() if path.is_file()]
        answers = {key.removeprefix("source__"): value for key, value in export.settings.items()
                   if key in ("source__person", "source__time_zone")}
        path = inside[0] if len(inside) == 1 and "person" not in answers else folder
        return Made(path, exported.format_of(name), answers=answers, settings=dict(answers))
    kind = list(TABLES)[number % len(TABLES)]
    names = chosen(rng)
    way = "iso" if kind in ("day and clock", "blanks") else rng.choice(list(WAYS))
    if kind == "blanks":
        way = "iso "
    found = TABLES[kind](folder, rng, names, rows(rng, names, way))
    found.settings |= {} if way.startswith("iso") else {"time_format": way}
    if way in ("iso ", "unix", "unix_ms"):
        found.answers["time_zone"] = "Europe/Berlin"
    return found
