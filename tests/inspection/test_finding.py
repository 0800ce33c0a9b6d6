"""What `inspect` finds in sixty logs of known kind: the format in all, the columns or a question in each."""

import random
from collections import Counter
from pathlib import Path

import pytest

from stages.common.errors import UserError
from stages.events.assembly import read_log
from stages.events.formats import FORMATS
from stages.inspection.finding import inspect, source_of
from stages.params import read_all
from tests.events import exported
from tests.events.helpers import ROOT
from tests.events.malformed import malformed, write
from tests.inspection import logs

LOGS, RIGHT = 60, 55
PARAMS = read_all(ROOT / "params.yaml")
ROLES = ("user", "time", "clock", "offset", "place", "behavior")


def look(path, answers=None, **options):
    return inspect([path], PARAMS, answers or {}, ROOT / "data" / "taxonomy", **options)


def wrong(made, found) -> list[str]:
    """The keys that are not what they should be."""
    keys = [key for key, value in made.settings.items() if found.settings.get(key) != value]
    if made.format == "table":
        keys += [f"columns.{role}" for role in ROLES
                 if (found.settings.get(f"columns.{role}") or "") != made.columns.get(role, "")]
    return keys


def test_sixty_logs(tmp_path):
    results = Counter()
    for number in range(LOGS):
        made = logs.write(number, tmp_path / str(number))
        found = look(made.path, made.answers)
        assert found.settings["format"] == made.format, number
        keys = wrong(made, found)
        asked = {question.key for question in found.questions}
        assert set(keys) <= asked, (number, keys, asked)
        results["right" if not keys else "asked"] += 1
        assert found.facts is not None and found.facts.events and not found.trouble, (number, found.trouble)
    assert results["right"] >= RIGHT, results


@pytest.mark.parametrize("number", [24, 31, 35, 37, 40])
def test_what_it_writes_reads_the_log(number, tmp_path):
    made = logs.write(number, tmp_path / "log")
    found = look(made.path, made.answers)
    log = read_log(FORMATS[found.settings["format"]], source_of(PARAMS, found.settings), None)
    assert (log.events.height, log.rows) == (found.facts.events, found.facts.rows)


@pytest.mark.parametrize("name", list(exported.WRITERS))
def test_an_export_is_read_from_what_is_found_and_makes_the_windows_that_it_has(name, tmp_path):
    export = exported.WRITERS[name](tmp_path, random.Random(1))
    answers = {key.removeprefix("source__"): value for key, value in export.settings.items()
               if key in ("source__person", "source__time_zone")}
    found = look(tmp_path, answers)
    assert not found.questions and not found.trouble
    log = read_log(FORMATS[found.settings["format"]], source_of(PARAMS, found.settings), None)
    assert log.events.height == len(export.events)
    of_each = Counter(person for person, *_ in export.events).values()
    assert found.facts.windows == sum(max(n - PARAMS.windowing.min_history, 0) for n in of_each)


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_log_is_an_error_or_a_question_and_no_traceback(seed, tmp_path):
    """Copies cut off, flipped bits, odd encodings, columns of odd types: those of tests.events.malformed."""
    path = write(malformed(seed), tmp_path)
    try:
        found = look(path, {"time_zone": "Europe/Berlin"})
    except UserError as error:
        assert str(path) in str(error)
    else:
        assert found.facts or found.trouble or found.questions


def test_what_is_not_said_is_asked(tmp_path):
    (tmp_path / "log.csv").write_text("".join(f"x,{1711544070 + 60 * i},{'ab'[i % 2]}\n" for i in range(30)))
    found = look(tmp_path / "log.csv")
    asked = {question.key for question in found.questions}
    assert {"time_zone", "columns.user", "columns.behavior"} & asked >= {"time_zone"}
    assert "columns.behavior" in asked


def test_day_and_month_either_way_round_is_asked(tmp_path):
    rows = [f"u{i % 3},{1 + i % 4}/{2 + i % 3}/2024 10:{i:02d}:00,Reading {i % 4}" for i in range(50)]
    (tmp_path / "log.csv").write_text("\n".join(["user,time,activity", *rows]))
    [question] = [each for each in look(tmp_path / "log.csv").questions if each.key == "time_format"]
    assert question.options == ("%d/%m/%Y %H:%M:%S", "%m/%d/%Y %H:%M:%S")
    rows[-1] = "u1,2/28/2024 10:00:00,Reading 1"
    (tmp_path / "log.csv").write_text("\n".join(["user,time,activity", *(rows * 3)][:40] + rows[-1:] * 9))
    found = look(tmp_path / "log.csv")
    assert found.settings["time_format"] == "%m/%d/%Y %H:%M:%S"


def test_the_earlier_of_two_times_is_taken(tmp_path):
    rows = [f"u{i % 3},2024-03-01 10:{i:02d}:00,2024-03-01 10:{i:02d}:30,Reading {i % 4}" for i in range(50)]
    (tmp_path / "log.csv").write_text("\n".join(["user,date_b,date_a,activity", *rows]))
    found = look(tmp_path / "log.csv")
    assert found.settings["columns.time"] == "date_b" and not found.questions


def test_a_large_log_is_looked_at_in_part_and_that_is_said(tmp_path):
    rows = [f"u{i % 50},2024-03-{1 + i % 28:02d} {i % 24:02d}:{i % 60:02d}:{i // 1000:02d},Reading {i % 4}"
            for i in range(60_000)]
    (tmp_path / "log.csv").write_text("\n".join(["user,time,activity", *rows]) + "\n")
    found = look(tmp_path / "log.csv", budget=600_000)
    assert 0.2 < found.facts.share < 0.6 and any("looked at" in note for note in found.notes)
    assert found.facts.rows == pytest.approx(60_000 * found.facts.share, rel=0.1)
    assert not found.facts.refused, "pieces are of whole lines"


def test_a_file_that_is_no_table_is_asked_about(tmp_path):
    (tmp_path / "log.txt").write_text("Dear diary,\nthis was a day\nof no particular, use, and, such\nends.\n")
    found = look(tmp_path / "log.txt")
    assert {question.key for question in found.questions} & {"format", "columns.time"} and found.facts is None
    with pytest.raises(UserError, match="no such file or folder"):
        look(Path("nowhere.csv"))
