import io

import pytest
from rich.console import Console
from rich.table import Table

from stages.common import console as module
from stages.common import errors
from stages.common.console import Track, track


class Clock:
    """A clock that a test moves."""

    now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module.time, "monotonic", clock.monotonic)
    return clock


def test_a_log_gets_a_line_now_and_then_with_the_time_left(clock, capsys):
    with track("scoring", 100) as bar:
        for clock.now in (5.0, 10.0, 15.0):
            bar.advance(5)
        assert capsys.readouterr().err == ""
        clock.now = 30.0
        bar.advance(5, note="loss 0.5")
        assert capsys.readouterr().err == "scoring: 20 of 100, 2 min 00 s left loss 0.5\n"
        clock.now = 49.0
        bar.advance(5)
        assert capsys.readouterr().err == ""
    assert capsys.readouterr().err == "scoring: 25 of 100 in 49 s\n"


def test_no_progress_yet_has_no_time_left(clock, capsys):
    bar = Track("training", 10)
    clock.now = 60.0
    bar.advance(0)
    assert capsys.readouterr().err == "training: 0 of 10, ? left\n"


def test_the_last_line_comes_after_an_error_too(capsys):
    with pytest.raises(RuntimeError), track("scoring", 2) as bar:
        bar.advance()
        raise RuntimeError
    assert capsys.readouterr().err == "scoring: 1 of 2 in 0 s\n"


LABEL = ":x: [red]Taking a [/] taxi :warning:"


def printed(make):
    """What a console with the settings of `make` prints of a label, in a terminal."""
    console = make()
    console.file, console._force_terminal, console.width = io.StringIO(), True, 100
    console.print(LABEL)
    table = Table(LABEL, title=LABEL)
    table.add_row(LABEL)
    console.print(table)
    return console.file.getvalue()


@pytest.mark.parametrize("make", [lambda: module._as_it_is(stderr=True), module.standard_output])
def test_labels_are_printed_as_they_are_and_not_as_pictures_and_colours(make):
    assert printed(make).count(":x:") == 4 and printed(make).count("[red]Taking a [/] taxi :warning:") == 4


def test_titles_and_notes_of_a_bar_are_printed_as_they_are(monkeypatch, capsys):
    made = module._as_it_is(stderr=True, force_terminal=True, color_system=None, width=160)
    monkeypatch.setattr(module, "console", made)
    with track(LABEL, 2) as bar:
        bar.advance(2, note=LABEL)
    err = capsys.readouterr().err
    assert err.count(LABEL) >= 3 and "❌" not in err


def test_an_error_is_printed_as_it_is(capsys):
    with pytest.raises(SystemExit):
        errors._fail(LABEL)
    assert capsys.readouterr().err == f"error: {LABEL}\n"


def test_a_terminal_gets_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(module, "console", Console(stderr=True, force_terminal=True, color_system=None, width=100))
    with track("scoring", 2) as bar:
        bar.advance(2, note="loss 0.5")
    err = capsys.readouterr().err
    assert "2/2" in err and "loss 0.5" in err and "scoring: 2 of 2 in 0 s" in err
