"""Raw log -> events.

Writes the tables `events` (sorted by user and time; users are pseudonyms), `quarantine` (each refused row: file, line,
rule, and the field at fault alone) and `oracle` (the simulated log's true probabilities, in the order of
stages.events.simulator.log.BEHAVIORS; empty for real logs), and a JSON of counts. Rows of the log = events +
quarantined. Above ingest.max_refused of refused rows the stage fails and says which rules refused them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from stages.common import errors, tables
from stages.common.console import track
from stages.common.params import Section, Seed
from stages.common.stage import COUNTS, Stage, optional, place, streamed_table, table
from stages.common.stage import text as text_file
from stages.events import taxonomy
from stages.events.assembly import Log, read_log
from stages.events.formats import FORMATS
from stages.events.key import NO_KEY, check_line, read_key, say
from stages.events.rules import IGNORED, Rule
from stages.events.settings import Ingest, Simulator, Source

_EXAMPLES = 3  # of each rule, in an error


class Params(Section):
    data_seed: Seed
    source: Source
    simulator: Simulator
    ingest: Ingest


def ingest(
    params: Params, taxonomies: Path, oracle: Path
) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, Any], str]:
    """Read the log that `params.source` names, or simulate one.

    Args:
        taxonomies: the folder of taxonomies.
        oracle: where the table `oracle` is written, on the way: it may be larger than memory.

    Returns:
        The tables `events` and `quarantine`, the counts, and the line of key_check.txt.

    Raises:
        UserError: the log cannot be read, too many rows are refused, or what is left is no log of several people who do
            several things.
    """
    source, check = params.source, NO_KEY
    name = "simulator" if source.format == "simulated" else source.path
    if source.format == "simulated":
        if source.top:
            raise errors.UserError(f"source.top: {source.top}: is for real logs; the simulated log's oracle knows its "
                                   "behaviours by name: set it to 0")
        log = _simulate(params, oracle)
    else:
        tables.write(pl.DataFrame(schema=tables.SCHEMAS["oracle"]), "oracle", oracle)
        found = taxonomy.find(source.taxonomy, source.format, taxonomies)
        names, key = taxonomy.read(found) if found else None, read_key()
        check = key.check
        say(key, Path("dvc.lock"))
        log = read_log(FORMATS[source.format], source, names, key.secret)
    refused = log.quarantine.filter(~pl.col("rule").is_in(IGNORED))
    share = refused.height / max(log.rows - (log.quarantine.height - refused.height), 1)
    if share > params.ingest.max_refused:
        raise errors.UserError(
            f"{name}: {refused.height:,} of {log.rows:,} rows refused ({share:.1%}; ingest.max_refused allows "
            f"{params.ingest.max_refused:.1%}):\n{_explain(refused)}"
        )
    counts = _check_events(log, name)
    return log.events, log.quarantine, _counts(log, refused, share, source.format, counts.height), check_line(check)


def _simulate(params: Params, oracle: Path) -> Log:
    from stages.events.simulator import log as simulator  # with SciPy, which real logs need not wait for

    people, parts = params.simulator, []

    def oracles() -> Iterator[pl.DataFrame]:
        with track("simulating, users", people.users) as bar:
            for events, p in simulator.blocks(params.data_seed, people.users, people.days, people.events_per_day):
                parts.append(events)
                bar.advance(events["user"].n_unique())
                yield p

    tables.write_blocks(oracles(), "oracle", oracle)
    events = pl.concat(parts, rechunk=False)
    return Log(events, pl.DataFrame(schema=tables.SCHEMAS["quarantine"]), events.height, 0)


def _explain(refused: pl.DataFrame) -> str:
    parts = []
    for rule, count in refused["rule"].value_counts().sort("count", "rule", descending=[True, False]).iter_rows():
        parts.append(f"  {rule}: {count:,} rows; {Rule(rule).cure}")
        for file, line, _, text in refused.filter(pl.col("rule") == rule).head(_EXAMPLES).iter_rows():
            parts.append(f"    {file}: line {line}: {text[:200]!r}" if text else f"    {file}: line {line}")
    return "\n".join(parts)


def _check_events(log: Log, name: str) -> pl.DataFrame:
    """The behaviours (`behavior`, `count`), most frequent first; refuses logs that nothing can be learned from."""
    events = log.events
    if events.is_empty():
        why = f"all {log.rows:,} are refused or ignored:\n{_explain(log.quarantine)}" if log.rows else "there is no row"
        raise errors.UserError(f"{name}: no event in this log: {why}")
    if events["user"][0] == events["user"][-1]:  # sorted
        raise errors.UserError(
            f"{name}: all {events.height:,} events are of one user; a model is tested on users it has not seen, so at "
            "least 3 are needed. Check source.columns.user, or bring more users"
        )
    counts = events["behavior"].value_counts().sort("count", "behavior", descending=[True, False])
    if counts.height == 1:
        raise errors.UserError(
            f"{name}: all {events.height:,} events are {counts['behavior'][0]!r}; there is nothing to predict. Check "
            "source.columns.behavior and source.taxonomy"
        )
    return counts


def _counts(log: Log, refused: pl.DataFrame, share: float, log_format: str, behaviors: int) -> dict[str, Any]:
    assert log.rows == log.events.height + log.quarantine.height
    user, time = log.events["user"], log.events["time"]
    ignored = log.quarantine.filter(pl.col("rule").is_in(IGNORED))
    return {
        "format": log_format, "files": log.files, "rows": log.rows, "events": log.events.height,
        "refused": {"rows": refused.height, "share": share, "by_rule": _by_rule(refused)},
        "ignored": ignored.height, "ignored_by_rule": _by_rule(ignored),
        "users": 1 + int((user != user.shift()).sum()), "behaviors": behaviors,  # users are sorted
        "places": log.events["place"].n_unique(), "first": time.min().isoformat(), "last": time.max().isoformat(),
        "newest_first": log.newest_first, "elsewhere": log.elsewhere, "across": log.across,
        "changed": {kind: {why: names for why, names in of_one.items() if names["names"]}
                    for kind, of_one in log.changed.items()},
    }


def _by_rule(rows: pl.DataFrame) -> dict[str, int]:
    counts = rows["rule"].value_counts().sort("count", "rule", descending=[True, False])
    return dict(counts.iter_rows())


_CHANGED = {  # what became of names, in the order in which it is done
    ("behaviors", "listed_in_another_case"): "taken for names of the taxonomy, which has them in another case",
    ("behaviors", "unlisted"): "not in the taxonomy (source.unlisted says what becomes of such)",
    ("behaviors", "merged"): "merged onto their most frequent spelling in another case",
    ("behaviors", "beyond_top"): "beyond the most frequent that source.top keeps",
    ("places", "merged"): "merged onto their most frequent spelling in another case",
}
_NAMED = 20  # names in such a line
_ELSEWHERE = "their hours are those of source.time_zone (written would keep them, source.columns.offset too)"


def _summary(counts: dict[str, Any]) -> str:
    """The line at the end, and one for each way in which names of the log did not stay as they were."""
    lines = [f"ingest: {counts['events']:,} events of {counts['users']:,} users, {counts['behaviors']} behaviours; "
             f"{counts['refused']['rows']:,} rows refused ({counts['format']})"]
    for what, by_rule in (("refused", counts["refused"]["by_rule"]), ("no events", counts["ignored_by_rule"])):
        lines += [f"  {what}: {', '.join(f'{rule}: {rows:,}' for rule, rows in by_rule.items())}"] * bool(by_rule)
    if counts["newest_first"]:
        lines.append(f"  newest first, and read from the end: {counts['newest_first']:,} of {counts['files']:,} files "
                     "(source.order)")
    if counts["elsewhere"]:
        lines.append(f"  written with another offset than source.time_zone has then: {counts['elsewhere']:,} events; "
                     + _ELSEWHERE)
    if counts["across"]:
        lines.append("  events at the time of an event of the same person in another file: "
                     f"{counts['across']:,}; files stand in the order of their times")
    for (kind, why), words in _CHANGED.items():
        if found := counts["changed"].get(kind, {}).get(why):
            names = [_changed(**each) for each in found["most"][:_NAMED]]
            more = [f"{found['names'] - len(names):,} more"] if found["names"] > len(names) else []
            lines.append(f"  names of {kind} {words}: {found['names']:,}, {found['events']:,} events: "
                         f"{', '.join(names + more)}")
    return "\n".join(lines)


def _changed(name: str, events: int, becomes: str | None = None) -> str:
    return f"{name!r} ({events:,})" + (f" to {becomes!r}" if becomes else "")


STAGE = Stage(
    "ingest", __doc__, ingest, Params, reads={"taxonomies": place("folder of taxonomies")},
    writes={"out": table("events"), "quarantine": table("quarantine"), "oracle": streamed_table("oracle"),
            "counts": COUNTS, "key_check": optional(text_file("which key the pseudonyms were made with"))},
    message=lambda args, events, quarantine, counts, check: _summary(counts),
)

if __name__ == "__main__":
    STAGE.run()
