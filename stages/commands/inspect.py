"""Look at a log and say what it is: the first command for a log of your own.

    python -m stages.inspect data/raw/log.csv                          # format, columns, people, hours, warnings
    python -m stages.inspect export/ -S time_zone=Europe/Berlin --write   # and put the keys into params.yaml

It prints the section `source` that reads the log, with a reason for each key. What it is not sure of it asks; `-S`
answers, and `--guesses` takes what it would guess. Large logs are looked at in part, and that is said. Nothing is
written without `--write` or `--html`, and no id of a user is printed.
"""

import argparse
from pathlib import Path
from typing import Any

from stages.common.console import duration, standard_output
from stages.common.errors import UserError, run
from stages.common.params import PARAMS
from stages.inspection.facts import Facts, quiet_hours, sizes, targets, warnings
from stages.inspection.finding import Finding, inspect, source_of
from stages.inspection.writing import answers, block, write
from stages.params import Params, read_all

_SHOWN = 12  # behaviours
_TAXONOMIES = Path("data/taxonomy")


def main() -> None:
    args = _parser().parse_args()
    if args.html:
        from stages.reports.drawing import require_library

        require_library()
    params = read_all(args.params)
    found = inspect(args.files, params, answers(args.set), args.taxonomies)
    fitting = sizes(found.facts, params.windowing) if found.facts else {}
    said = warnings(found.facts, params.windowing, params.ingest.max_refused) if found.facts else []
    out = standard_output()
    out.print("\n".join(_lines(found, fitting, said, params)), soft_wrap=True)
    if args.html:
        _page(args.html, found, fitting, said, params)
        out.print(f"\npage: {args.html}")
    if args.write:
        _write(args.params, found, fitting, params, args.guesses)
        out.print(f"\nwritten: sections source and windowing of {args.params}; next: dvc repro windowing, or dvc repro")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m stages.inspect", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="files of one log, or their folder")
    parser.add_argument("-S", "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
                        help="a key of source, such as time_zone=Europe/Berlin or columns.user=device_id")
    parser.add_argument("--write", action="store_true", help="write the keys into params.yaml; comments stay")
    parser.add_argument("--guesses", action="store_true", help="with --write: take the guesses where it asks")
    parser.add_argument("--html", type=Path, metavar="PAGE", help="write a page with pictures of the log, too")
    parser.add_argument("--params", type=Path, default=PARAMS, help="(default: %(default)s)")
    parser.add_argument("--taxonomies", type=Path, default=_TAXONOMIES, help="their folder (default: %(default)s)")
    return parser


def _lines(found: Finding, fitting: dict[str, Any], said: list[str], params: Params) -> list[str]:
    lines = [*found.notes, "", block(found.settings, found.reasons)]
    if fitting:
        lines += ["windowing:", *(f"  {key.partition('.')[2]}: {value}" for key, value in fitting.items())]
    if found.facts:
        lines += ["", *described(found.facts, params)]
        lines += [_estimate(found, params)]
    if found.trouble:
        lines += ["", f"It cannot be read so: {found.trouble}"]
    for number, question in enumerate(found.questions, start=1):
        options = f" Likely: {', '.join(map(repr, question.options))}." if question.options else ""
        guess = f" Guess: {question.guess!r}." if question.guess is not None else ""
        lines += [""] * (number == 1) + [f"question {number}: {question.text}.{options}{guess} Answer: -S "
                                         f"{question.key}=…".replace("?.", "?").replace(".. ", ". ")]
    lines += [""] * bool(said) + [f"warning: {each}" for each in said]
    return lines


def described(facts: Facts, params: Params) -> list[str]:
    """What is in the log, in words."""
    part = "" if facts.share == 1 else " in the part looked at"
    refused = sum(rows for _, rows, *_ in facts.refused)
    lines = [f"rows{part}: {facts.rows:,}: {facts.events:,} events, {refused:,} refused, {facts.ignored:,} that are no "
             f"events or double"]
    for rule, rows, cure, examples in facts.refused:
        shown = f" ({', '.join(map(repr, examples))})" if examples else ""
        lines.append(f"  refused: {rule}: {rows:,}{shown}; {cure}")
    if not facts.events:
        return lines
    median = facts.lengths[len(facts.lengths) // 2]
    rare, share = facts.tail(params.windowing.anchor_threshold)
    first = [f"{name} {count / facts.events:.1%}" for name, count in facts.by_behavior[:_SHOWN]]
    more = [f"{facts.behaviors - _SHOWN:,} more"] if facts.behaviors > _SHOWN else []
    least, most = facts.lengths[0], facts.lengths[-1]
    lines += [
        f"people{part}: {facts.people:,}; events of each: {least:,} to {most:,}, median {median:,}",
        f"behaviours{part}: {facts.behaviors:,}: {', '.join(first + more)}",
        f"tail (at most {params.windowing.anchor_threshold:.1%} of the events each): {rare:,} behaviours, {share:.1%} "
        "of the events",
        f"places{part}: {facts.places:,}" if facts.places else "places: none",
        f"times: {facts.first[:16]} to {facts.last[:16]}, {facts.days:,} days" + (
            f"; median gap {duration(facts.gap * 60)}" if facts.gap is not None else ""),
        f"hours: {' '.join(f'{count / facts.events:.0%}' for count in facts.by_hour)} (0:00 to 23:00)",
    ]
    start = quiet_hours(facts.by_hour)
    if start is not None:
        lines.append(f"the quietest hours begin at {start}:00")
    if facts.newest_first:
        lines.append("the newest rows stand first; they are read from the end")
    return lines


def _estimate(found: Finding, params: Params) -> str:
    facts = found.facts
    assert facts is not None
    wanted = params.instructions.train_targets
    scale = 1 / max(facts.share, 1e-9)
    about = "" if facts.share == 1 else "at most about "
    return (f"a run: {about}{facts.windows:,} windows; the language model trains on {about}"
            f"{targets(facts, wanted):,} targets (at most instructions.train_targets, {wanted:,}); the default run, of "
            "5,000, takes 11 minutes on two cores (README). Reading this log takes about "
            f"{duration(max(found.seconds * facts.rows * scale, 1))}")


def _write(path: Path, found: Finding, fitting: dict[str, Any], params: Params, guesses: bool) -> None:
    open_questions = [each for each in found.questions if each.guess is None or not guesses]
    if open_questions:
        keys = ", ".join(dict.fromkeys(each.key for each in open_questions))
        raise UserError(f"{path}: not written: there are questions about {keys}; answer them with -S KEY=VALUE"
                        + (" (or take the guesses with --guesses)" if all(
                            each.guess is not None for each in open_questions) else ""))
    if found.trouble:
        raise UserError(f"{path}: not written: {found.trouble}")
    source = source_of(params, found.settings).model_dump()
    columns = source.pop("columns")
    changes = {f"source.{key}": value for key, value in source.items()}
    changes |= {f"source.columns.{key}": value for key, value in columns.items()}
    write(path, changes | fitting)


def _page(path: Path, found: Finding, fitting: dict[str, Any], said: list[str], params: Params) -> None:
    from stages.common.files import atomic_file
    from stages.reports.log import pictures
    from stages.reports.page import render

    drawn = pictures(found.facts.by_behavior, found.facts.by_hour, found.facts.lengths) if found.facts else []
    lines = described(found.facts, params) if found.facts else []
    content = render("inspect.html.j2", block=block(found.settings, found.reasons), notes=found.notes, lines=lines,
                     questions=found.questions, warnings=said, pictures=drawn, trouble=found.trouble)
    with atomic_file(path) as part:
        part.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    run(main)
