"""`python -m stages.inspect`: what it prints, what it writes, and that it writes nothing while it has to ask."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import polars as pl
import pytest

from stages.ingest import ingest
from stages.params import read_all
from tests.events.helpers import ROOT, params_with

PEOPLE, EVENTS = 5, 40
SECRET = "secret-person"


@pytest.fixture
def log(tmp_path) -> Path:
    rows = [f"{SECRET}-{person},2024-05-{1 + event // 4:02d}T{8 + event % 4 * 3:02d}:{person:02d}:00Z,"
            + ["Mail", "Maps", "News"][event * 7 % 3] for person in range(PEOPLE) for event in range(EVENTS)]
    (tmp_path / "log.csv").write_text("\n".join(["user_id,opened_at,app", *rows, f"{SECRET}-0,then,Mail"]) + "\n")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    return tmp_path / "log.csv"


def inspect(*words, fails=False) -> str:
    command = [sys.executable, "-m", "stages.inspect", *map(str, words)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode != 0) == fails, result.stderr
    return result.stdout + result.stderr


def test_it_says_what_the_log_is_and_asks_where_people_live(log):
    before = (log.parent / "params.yaml").read_bytes()
    said = inspect(log, "--params", log.parent / "params.yaml", "--write", fails=True)
    for words in ("format: table", "user: user_id", "time: opened_at", "behavior: app", f"people: {PEOPLE}",
                  "refused: unreadable time: 1", "-S time_zone=",
                  "error: .*not written: there are questions about time_zone"):
        assert re.search(words, said), (words, said)
    assert (log.parent / "params.yaml").read_bytes() == before
    assert SECRET not in said


def test_what_it_writes_is_what_ingest_reads(log, monkeypatch):
    file = log.parent / "params.yaml"
    said = inspect(log, "-S", "time_zone=Europe/Berlin", "--params", file, "--write")
    assert "written" in said
    old, new = ((path / "params.yaml").read_text().splitlines() for path in (ROOT, log.parent))
    comments = [[line for line in lines if line.strip().startswith("#")] for lines in (old, new)]
    assert comments[0] == comments[1]
    assert len(old) == len(new)
    params = read_all(file)
    assert params.source.columns.model_dump() == {
        "user": "user_id", "time": "opened_at", "clock": "", "offset": "", "place": "", "behavior": "app"}
    monkeypatch.setenv("BEHAVIORLM_CACHE", str(log.parent / "cache"))
    events, _, counts, _ = ingest(params_with(source=params.source.model_dump()), ROOT / "data" / "taxonomy",
                                  log.parent / "oracle.parquet")
    assert (events.height, counts["users"]) == (PEOPLE * EVENTS, PEOPLE)


def test_writing_the_same_values_changes_no_byte(tmp_path):
    from stages.inspection.writing import write

    shutil.copy(ROOT / "params.yaml", tmp_path)
    params = read_all(ROOT / "params.yaml").source.model_dump()
    columns = params.pop("columns")
    write(tmp_path / "params.yaml", {f"source.{key}": value for key, value in params.items()} | {
        f"source.columns.{key}": value for key, value in columns.items()})
    assert (tmp_path / "params.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()


def test_behaviours_have_the_names_of_a_taxonomy_of_another_folder(log):
    (log.parent / "own").mkdir()
    (log.parent / "own" / "few.csv").write_text("raw,behavior\nMail,Writing\nMaps,Travelling\nNews,Reading\n")
    said = inspect(log, "-S", "time_zone=UTC", "taxonomy=few.csv", "--taxonomies", log.parent / "own", "--params",
                   log.parent / "params.yaml")
    assert "Travelling" in said and "Maps" not in said
    assert "few.csv" in inspect(log, "-S", "time_zone=UTC", "taxonomy=few.csv", "--params", log.parent / "params.yaml")


def test_guesses_are_taken_only_where_it_is_told_to(tmp_path):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "a").mkdir()
    for name in "xyz":
        pl.DataFrame({"time": [f"2024-05-01 0{hour}:00:00" for hour in range(8)], "activity": ["Mail", "Maps"] * 4}
                     ).write_csv(tmp_path / "a" / f"{name}.csv")
    words = (tmp_path / "a", "--params", tmp_path / "params.yaml", "--write")
    assert "questions about person" in inspect(*words, fails=True)
    inspect(*words, "--guesses")
    source = read_all(tmp_path / "params.yaml").source
    assert (source.person, source.path, source.files) == ("file", (tmp_path / "a").as_posix(), "*")


def test_the_page_has_pictures_and_asks_nothing_of_a_network(log):
    pytest.importorskip("vl_convert")
    page = log.parent / "log.html"
    inspect(log, "-S", "time_zone=Europe/Berlin", "--params", log.parent / "params.yaml", "--html", page)
    text = page.read_text()
    assert text.count("<svg") == 3 and SECRET not in text
    assert not re.search(r'(?:src|href)="https?:', text)
    ElementTree.fromstring(text.replace("<!DOCTYPE html>", ""))


@pytest.mark.parametrize(("words", "says"), [
    (["nowhere.csv"], "nowhere.csv: no such file or folder"),
    (["log", "-S", "person"], "-S person: expected KEY=VALUE"),
    (["log", "-S", "person=none"], "source.person: .*'column', 'file'"),
])
def test_mistakes(log, words, says):
    words = [str(log) if word == "log" else word for word in words]
    assert re.search(says, inspect(*words, fails=True))


def test_it_loads_no_model():
    code = "import sys, stages.inspect; print({'torch', 'transformers', 'scipy'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert found.stdout.strip() == "set()"


def test_a_document_of_people_is_understood(tmp_path):
    people = [{"id": f"{SECRET}{number}", "visits": [
        {"at": f"2024-05-0{1 + hour // 8} {9 + hour % 8}:00:00", "what": {"app": ["Mail", "Maps"][hour % 2]}}
        for hour in range(16)]} for number in range(4)]
    (tmp_path / "log.json").write_text(json.dumps({"users": people}))
    said = inspect(tmp_path / "log.json")
    for words in ("events: users.*.visits", "user: /users.*.id", "time: at", "behavior: what.app", "64 events",
                  "people: 4"):
        assert words in said, said
    assert SECRET not in said
