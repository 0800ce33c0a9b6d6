"""What a person sees while a stage runs: one console, and progress with the time left."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from stages.common import launch

# what is printed is data too: `:x:` in a label is no picture, and `[red]` no colour
_as_it_is = partial(Console, highlight=False, markup=False, emoji=False)

# of several processes the first speaks
console = _as_it_is(stderr=True, quiet=not launch.is_first())

_SECONDS_BETWEEN_LINES = 20.0


class Track:
    """Progress over a known amount of work: a live bar in a terminal, a line now and then in a log."""

    def __init__(self, title: str, total: float):
        self.title, self.total, self.done = title, total, 0.0
        self._start = self._printed = time.monotonic()
        self._bar: Progress | None = None
        if console.is_terminal and not console.quiet:
            self._bar = Progress(
                _text("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                _text("left"), TimeRemainingColumn(), _text("{task.fields[note]}"), console=console,
            )
            self._bar.add_task(title, total=total, note="")
            self._bar.start()

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Record `amount` more of the work as done; `note` stands behind the bar (a loss, a rate)."""
        self.done += amount
        if self._bar is not None or time.monotonic() - self._printed >= _SECONDS_BETWEEN_LINES:
            self.show(note)

    def show(self, note: str = "") -> None:
        """Say where the work stands, now."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self.done, note=note)
            return
        self._printed = time.monotonic()
        left = (self._printed - self._start) / self.done * (self.total - self.done) if self.done else float("nan")
        console.print(f"{self.title}: {self.done:,.0f} of {self.total:,.0f}, {duration(left)} left {note}".rstrip())

    def close(self) -> None:
        """Take the bar down and leave one line with the total time."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        elapsed = time.monotonic() - self._start
        console.print(f"{self.title}: {self.done:,.0f} of {self.total:,.0f} in {duration(elapsed)}")


def standard_output() -> Console:
    """A console for results, as wide as the terminal, or wide enough for tables in a file."""
    out = _as_it_is()
    if not out.is_terminal:
        out.width = 160
    return out


def _text(template: str) -> TextColumn:
    return TextColumn(template, markup=False)


@contextmanager
def track(title: str, total: float) -> Iterator[Track]:
    """Progress for the length of a `with` block."""
    bar = Track(title, total)
    try:
        yield bar
    finally:
        bar.close()


def duration(seconds: float) -> str:
    """`75` as `1 min 15 s`; a question mark for what is not a number."""
    if seconds != seconds:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
