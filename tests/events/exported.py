"""Small exports of every format, written with the standard library alone, and the events that a reader must find.

Each writer gets a folder and a random generator; whatever the layout holds beside events is in there too.
"""

import csv
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl

ZONE = "Europe/Berlin"
NAMES = ["Editor", "Browser", "Mail", "Music", "Maps", "Chat", "News", "Camera"]
_START = datetime(2024, 3, 1, 7, tzinfo=UTC)


@dataclass
class Export:
    """What was written.

    Attributes:
        settings: changes of params that reading it asks for, beside the format.
        events: (person, local time, behaviour) of each.
        ignored: rows that are no events.
    """

    settings: dict[str, Any]
    events: list[tuple[str, datetime, str]]
    ignored: int = 0
    path: str = ""
    places: list[str] = field(default_factory=list)


Event = tuple[str, datetime, str]


def made(rng: random.Random, people: int, each: int = 30, names: list[str] = NAMES, step: int = 1) -> list[Event]:
    """Events (person, UTC, name) of some people, those of a person in order; times are multiples of `step` seconds."""
    found = []
    for person in range(people):
        time = _START + timedelta(minutes=person)
        for _ in range(each):
            time += timedelta(seconds=step * rng.randint(max(1, 120 // step), max(2, 30_000 // step)))
            found.append((f"{9000 + 7 * person}", time, rng.choice(names)))
    return found


def local(events: list[Event], zone: str = ZONE) -> list[Event]:
    there = ZoneInfo(zone)
    return [(person, time.astimezone(there).replace(tzinfo=None), name) for person, time, name in events]


def utc_text(time: datetime, end: str = "Z") -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S") + end


def by_person(events: list[Event]) -> dict[str, list[Event]]:
    return {person: [event for event in events if event[0] == person] for person in dict.fromkeys(e[0] for e in events)}


def tsv(path: Path, rows: list[list[Any]], separator: str = "\t") -> None:
    path.write_text("".join(separator.join(map(str, row)) + "\n" for row in rows), encoding="utf-8")


def with_header(path: Path, header: list[str], rows: list[list[Any]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([header, *rows])


def activitywatch(folder: Path, rng: random.Random) -> Export:
    events, ignored = made(rng, 3), 0
    for person, own in by_person(events).items():
        window, afk = [], []
        for number, (_, time, app) in enumerate(own):
            record = {"timestamp": utc_text(time, ".250000+00:00"), "duration": 60.5,
                      "data": {"app": app, "title": f"window {number}"}}
            window.append(record)
            afk.append({"timestamp": utc_text(time), "duration": 100, "data": {"status": "not-afk"}})
            if number % 3 == 0:  # the title changes
                window.append(record | {"timestamp": utc_text(time + timedelta(seconds=61), ".000000+00:00"),
                                        "duration": 20, "data": {"app": app, "title": "another"}})
                ignored += 1
            if number % 4 == 0:  # a clock's window while nobody is there
                away = time + timedelta(seconds=101)
                afk.append({"timestamp": utc_text(away), "duration": 15, "data": {"status": "afk"}})
                window.append({"timestamp": utc_text(away, ".500000+00:00"), "duration": 10,
                               "data": {"app": "Lock screen", "title": ""}})
                ignored += 1
        ignored += len(afk)
        rng.shuffle(window)
        buckets = {"aw-watcher-window_pc": {"type": "currentwindow", "hostname": "pc", "events": window},
                   "aw-watcher-afk_pc": {"type": "afkstatus", "hostname": "pc", "events": afk}}
        (folder / f"{person}.json").write_text(json.dumps({"buckets": buckets}))
    # half-seconds count as written
    found = [(person, time + timedelta(milliseconds=250), name) for person, time, name in local(events)]
    return Export({"source__person": "file", "source__time_zone": ZONE}, found, ignored)


def google_activity(folder: Path, rng: random.Random) -> Export:
    events = made(rng, 3, names=["YouTube", "Search", "Maps", "Chrome"])
    for person, own in by_person(events).items():
        (folder / person).mkdir()
        (folder / person / "MyActivity.json").write_text(json.dumps([
            {"header": name, "title": f"Watched {number}", "titleUrl": "https://example.org", "products": [name],
             "time": utc_text(time, ".123Z")} for number, (_, time, name) in reversed(list(enumerate(own)))], indent=2))
    found = [(person, time + timedelta(milliseconds=123), name) for person, time, name in local(events)]
    return Export({"source__person": "folder", "source__files": "*/*.json", "source__time_zone": ZONE}, found)


_STAYS = {"HOME": "at home", "WORK": "at work", "UNKNOWN": "at an unknown place"}


def _timeline(name: str, time: datetime, end: datetime, android: bool) -> dict[str, Any]:
    offset = timezone(timedelta(hours=9))
    segment: dict[str, Any] = {"startTime": time.astimezone(offset).isoformat(timespec="milliseconds"),
                               "endTime": end.astimezone(offset).isoformat(timespec="milliseconds")}
    if name in _STAYS:
        kind = name if android else name.capitalize()
        segment["visit"] = {"hierarchyLevel": 0 if android else "0", "probability": 0.9,
                            "topCandidate": {"semanticType": kind, "placeId": "x", "probability": 0.5}}
    else:
        kind = name.upper().replace(" ", "_") if android else name
        segment["activity"] = {"topCandidate": {"type": kind, "probability": 0.5}}
    return segment


def google_timeline(folder: Path, rng: random.Random, android: bool = True) -> Export:
    events, ignored = made(rng, 3, names=[*_STAYS, "walking", "in passenger vehicle"]), 0
    for person, own in by_person(events).items():
        segments = []
        for _, time, name in own:
            segments.append(_timeline(name, time, time + timedelta(minutes=1), android))
            segments.append({"startTime": utc_text(time), "endTime": utc_text(time), "timelinePath": [{"point": "1"}]})
            ignored += 1
        content: Any = {"semanticSegments": segments, "userLocationProfile": {}} if android else segments
        (folder / f"{person}.json").write_text(json.dumps(content, indent=1))
    found = [(person, time, _STAYS.get(name, name)) for person, time, name in local(events)]
    return Export({"source__person": "file", "source__time_zone": ZONE}, found, ignored)


def google_timeline_iphone(folder: Path, rng: random.Random) -> Export:
    return google_timeline(folder, rng, android=False)


def spotify(folder: Path, rng: random.Random) -> Export:
    events = made(rng, 3, names=["Quartet", "Choir", "Band, the", "Trio"], step=60)
    for person, own in by_person(events).items():
        (folder / f"{person}.json").write_text(json.dumps([
            {"endTime": time.strftime("%Y-%m-%d %H:%M"), "artistName": name, "trackName": f"track {number}",
             "msPlayed": 1000 * number} for number, (_, time, name) in enumerate(own)], indent=2))
    found = [(person, time.replace(second=0), name) for person, time, name in local(events)]
    return Export({"source__person": "file", "source__time_zone": ZONE}, found)


def spotify_extended(folder: Path, rng: random.Random) -> Export:
    events = made(rng, 3, names=["Quartet", "Choir", "Band, the", "Trio"])
    for person, own in by_person(events).items():
        rows = [{"ts": utc_text(time), "platform": "ios", "ms_played": 1000, "master_metadata_track_name": f"t{number}",
                 "master_metadata_album_artist_name": name if number % 5 else None,
                 "episode_show_name": None if number % 5 else name} for number, (_, time, name) in enumerate(own)]
        video = {"ts": "2024-01-01T00:00:00Z", "ms_played": 5, "master_metadata_album_artist_name": None,
                 "episode_show_name": None}
        (folder / f"{person}.json").write_text(json.dumps([*rows, video]))
    return Export({"source__person": "file", "source__time_zone": ZONE}, local(events), 3)


def lastfm(folder: Path, rng: random.Random) -> Export:
    events = made(rng, 3, names=["Quartet", "Choir", "Band, the", 'The "Trio"'], step=60)
    events = [(person, time.replace(second=0), name) for person, time, name in events]
    for person, own in by_person(events).items():
        with open(folder / f"{person}.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(
                [name, "album", f"track {number}", time.strftime("%d %b %Y, %H:%M")]
                for number, (_, time, name) in reversed(list(enumerate(own))))
    return Export({"source__person": "file", "source__time_zone": ZONE}, local(events))


def lastfm_headed(folder: Path, rng: random.Random) -> Export:
    events = made(rng, 3, names=["Quartet", "Choir", "Band, the", 'The "Trio"'])
    for person, own in by_person(events).items():
        with_header(folder / f"{person}.csv", ["uts", "utc_time", "artist", "artist_mbid", "album", "track"], [
            ["", "", "Choir", "", "", "now playing"],
            *([int(time.timestamp()), time.strftime("%d %b %Y, %H:%M"), name, "", "album", f"track {number}"]
              for number, (_, time, name) in reversed(list(enumerate(own))))])
    return Export({"source__person": "file", "source__time_zone": ZONE}, local(events), 3)


def rescuetime(folder: Path, rng: random.Random) -> Export:
    events = made(rng, 3, names=["Email", "General News & Opinion", "Software Development"], step=300)
    events = [(person, time.replace(minute=time.minute // 5 * 5, second=0), name) for person, time, name in events]
    for person, own in by_person(events).items():
        header = ["Date", "Time Spent (seconds)", "Number of People", "Activity", "Category", "Productivity"]
        with_header(folder / f"{person}.csv", header, [
            [time.isoformat(), 12 * number, 1, f"site {number}", name, 2]
            for number, (_, time, name) in enumerate(local(own), 1)])
    return Export({"source__person": "file"}, local(events))


def home_assistant(folder: Path, rng: random.Random) -> Export:
    events = made(rng, 3, names=["light.kitchen on", "light.kitchen off", "lock.door unlocked", "person.ann home"])
    ignored = 0
    for person, own in by_person(events).items():
        rows = []
        for _, time, name in own:
            rows += [[*name.split(" "), utc_text(time, ".500Z")], ["sensor.heat", 21.5, utc_text(time, ".600Z")],
                     ["light.kitchen", "unavailable", utc_text(time, ".700Z")]]
            ignored += 2
        with_header(folder / f"{person}.csv", ["entity_id", "state", "last_changed"], rows)
    found = [(person, time + timedelta(milliseconds=500), name) for person, time, name in local(events)]
    return Export({"source__person": "file", "source__time_zone": ZONE}, found, ignored)


def home_assistant_logbook(folder: Path, rng: random.Random) -> Export:
    events = made(rng, 3, names=["Kitchen light on", "Door unlocked", "Ann home"])
    for person, own in by_person(events).items():
        (folder / f"{person}.json").write_text(json.dumps([
            {"when": utc_text(time, "+00:00"), "name": name.rpartition(" ")[0], "state": name.rpartition(" ")[2],
             "entity_id": "light.x"} for _, time, name in own]))
    return Export({"source__person": "file", "source__time_zone": ZONE}, local(events))


def casas(folder: Path, rng: random.Random, annotated: bool = True) -> Export:
    names = ["Sleeping", "Meal Preparation", "Relax"] if annotated else ["M003 ON", "D001 OPEN", "M017 ON"]
    events, ignored = made(rng, 3, names=names), 0
    for person, own in by_person(local(events)).items():
        lines = []
        for number, (_, time, name) in enumerate(own):
            sensor = name if not annotated else "M003 ON"
            note = f"\t{name.replace(' ', '_')}\tbegin" if annotated else ""
            lines += [f"{time:%Y-%m-%d %H:%M:%S}.209589\t{sensor.replace(' ', chr(9))}{note}",
                      f"{time:%Y-%m-%d %H:%M:%S}.709589\tM004\tOFF"]
            ignored += 1
            if annotated and number % 2:
                lines.append(f"{time:%Y-%m-%d %H:%M:%S}.809589\tM004\tOFF\t{name.replace(' ', '_')}\tend")
                ignored += 1
        (folder / f"{person}.txt").write_text("\n".join(lines) + "\n")
    found = [(person, time + timedelta(microseconds=209589), name) for person, time, name in local(events)]
    return Export({"source__person": "file"}, found, ignored)


def casas_plain(folder: Path, rng: random.Random) -> Export:
    return casas(folder, rng, annotated=False)


def mind(folder: Path, rng: random.Random) -> Export:
    kinds = ["sports: football_nfl", "news: newsus", "weather: storms"]
    news = {f"N{number}": kind for number, kind in enumerate(kinds)}
    tsv(folder / "news.tsv", [[key, *kind.split(": "), f'A "title" of {key}', "", "", "[]", "[]"]
                              for key, kind in news.items()])
    expected, rows, ignored = [], [], 0
    for number, (person, time, _) in enumerate(made(rng, 4)):
        shown = [(rng.choice(list(news)), rng.random() < 0.3) for _ in range(4)]
        written = time.strftime("%m/%d/%Y %I:%M:%S %p").lstrip("0").replace("/0", "/")
        rows.append([number, f"U{person}", written, "N1 N2", " ".join(
            f"{key}-{int(clicked)}" for key, clicked in shown)])
        clicks = [(person, time.replace(tzinfo=None), news[key]) for key, clicked in shown if clicked]
        expected += clicks
        ignored += not clicks
    tsv(folder / "behaviors.tsv", rows)
    return Export({"source__files": "*.tsv"}, expected, ignored)


def taobao(folder: Path, rng: random.Random) -> Export:
    words = {"pv": "Viewing", "cart": "Adding to the cart", "fav": "Marking as a favourite", "buy": "Buying"}
    events = made(rng, 4, names=list(words))
    tsv(folder / "UserBehavior.csv", [[person, rng.randint(1, 10**6), rng.randint(1, 9), kind, int(time.timestamp())]
                                      for person, time, kind in events], ",")
    found = [(person, time, words[kind]) for person, time, kind in local(events, "Asia/Shanghai")]
    return Export({"source__time_zone": "Asia/Shanghai"}, found, path="UserBehavior.csv")


def gowalla(folder: Path, rng: random.Random) -> Export:
    events = made(rng, 4, names=["22847", "420315", "316637"])
    tsv(folder / "checkins.txt", [[person, utc_text(time), "30.2359091167", "-97.7951395833", place]
                                  for person, time, place in reversed(events)])
    found = [(person, time, f"place {name}") for person, time, name in local(events, "America/Chicago")]
    return Export({"source__time_zone": "America/Chicago"}, found)


def _ctime(time: datetime) -> str:
    return time.strftime("%a %b %d %H:%M:%S +0000 %Y")


def foursquare_tokyo(folder: Path, rng: random.Random) -> Export:
    events = made(rng, 4, names=["Ramen / Noodle House", "Train Station", "Café"])
    lines = ["\t".join([person, "4f0fd5a8", "4bf58dd8", name, "35.70510", "139.61959", "540", _ctime(time)])
             for person, time, name in events]
    (folder / "dataset_TSMC2014_TKY.txt").write_bytes("\n".join(lines).encode("latin-1"))
    return Export({}, local(events, "Asia/Tokyo"))


def foursquare_global(folder: Path, rng: random.Random) -> Export:
    venues = {"v1": ("Café", "DE", 60), "v2": ("Airport", "JP", 540), "v3": ("Museum", "US", -300)}
    tsv(folder / "dataset_TIST2015_POIs.txt", [[key, 48.1, 11.5, name, country]
                                               for key, (name, country, _) in venues.items()])
    events = made(rng, 4, names=list(venues))
    tsv(folder / "dataset_TIST2015_Checkins.txt", [[person, venue, _ctime(time), venues[venue][2]]
                                                   for person, time, venue in events])
    found = [(person, time.replace(tzinfo=None) + timedelta(minutes=venues[venue][2]), venues[venue][0])
             for person, time, venue in events]
    return Export({}, found, places=["DE", "JP", "US"])


def recbole(folder: Path, rng: random.Random) -> Export:
    events = made(rng, 4, names=["242", "302", "377"])
    tsv(folder / "ml.inter", [["user_id:token", "item_id:token", "rating:float", "timestamp:float"],
                              *([person, item, 3, int(time.timestamp())] for person, time, item in events)])
    tsv(folder / "ml.item", [["item_id:token", "movie_title:token_seq"], [242, "Kolya"]])
    return Export({"source__time_zone": ZONE}, [(person, time, f"item {item}") for person, time, item in local(events)])


def meds(folder: Path, rng: random.Random) -> Export:
    events = made(rng, 4, names=["LAB//50931//mg/dL", "ICU_ADMISSION", "MEDS_DEATH"])
    (folder / "data" / "train").mkdir(parents=True)
    frame = pl.DataFrame({"subject_id": [int(person) for person, *_ in events] + [9000],
                          "time": [time.replace(tzinfo=None) for _, time, _ in events] + [None],
                          "code": [code for *_, code in events] + ["GENDER//F"],
                          "numeric_value": pl.Series([None] * (len(events) + 1), dtype=pl.Float32)})
    frame.write_parquet(folder / "data" / "train" / "0.parquet")
    (folder / "metadata").mkdir()
    pl.DataFrame({"code": ["x"], "description": ["y"]}).write_parquet(folder / "metadata" / "codes.parquet")
    found = [(person, time.replace(tzinfo=None), code) for person, time, code in events]
    return Export({"source__files": "data/**/*.parquet"}, found, 1)


def atus(folder: Path, rng: random.Random) -> Export:
    kinds = {1: "Personal care", 5: "Work", 11: "Eating and drinking", 18: "Travelling"}
    expected, activities, respondents, ignored = [], [], [], 0
    for number in range(5):
        case, day = f"2023010101{number:04d}", datetime(2023, 1, 1 + number)
        respondents.append([case, 1, day.strftime("%Y%m%d"), 1])
        time = day + timedelta(hours=4)
        for order in range(1, 20):
            kind = rng.choice(list(kinds)) if order != 9 else 50
            activities.append([case, order, time.strftime("%H:%M:%S"), f"{kind:02d}", "01", rng.choice([1, 2, 12, -1])])
            if kind == 50:
                ignored += 1
            else:
                expected.append((case, time, kinds[kind]))
            time += timedelta(minutes=rng.randint(10, 72))
    with_header(folder / "atusact_2023.dat", ["TUCASEID", "TUACTIVITY_N", "TUSTARTTIM", "TUTIER1CODE", "TUTIER2CODE",
                                              "TEWHERE"], activities)
    with_header(folder / "atusresp_2023.dat", ["TUCASEID", "TULINENO", "TUDIARYDATE", "TUDIARYDAY"], respondents)
    return Export({}, expected, ignored)


WRITERS: dict[str, Callable[[Path, random.Random], Export]] = {
    "activitywatch": activitywatch, "google_activity": google_activity, "google_timeline": google_timeline,
    "google_timeline (iPhone)": google_timeline_iphone, "spotify": spotify, "spotify (extended)": spotify_extended,
    "lastfm": lastfm, "lastfm (headed)": lastfm_headed, "rescuetime": rescuetime, "home_assistant": home_assistant,
    "home_assistant (logbook)": home_assistant_logbook, "casas": casas, "casas (plain)": casas_plain, "mind": mind,
    "taobao": taobao, "gowalla": gowalla, "foursquare_tokyo": foursquare_tokyo, "foursquare_global": foursquare_global,
    "recbole": recbole, "meds": meds, "atus": atus,
}
"""By format, and variant in brackets."""


def format_of(name: str) -> str:
    return name.partition(" (")[0]
