"""What will this person do next? Reads events and questions as JSON Lines, answers each question as it comes.

An event is a line such as {"time": "2024-05-06T16:20", "place": "home", "behavior": "Gaming"}; a line without a
behavior asks what it will be, and one line of JSON answers it:

    {"line": 8, "predictions": [{"behavior": "Gaming", "probability": 0.41}, ...]}

A line that is neither is answered with what is wrong with it, changes nothing, and the next is read:

    {"line": 9, "error": "time 'yesterday': not an ISO time such as 2024-05-06T16:20"}

That is the asker's mistake: the exit status stays 0. At the end standard error says how many lines were so. No error
has what stands under "user". A line is bad that is no JSON object in UTF-8 (an empty line is none), is longer than
65,536 bytes, has a key twice or an unknown one, NaN, a control character in a name, no time, or an earlier time than
the person's last event.

--model is a folder: models/fusion, a pool of what stands beside it; models/habits, which knows a person's past and
needs no language model; or a language model, such as models/sft, for which layout stream is needed. Parts of a pool
that have no weight are not loaded.

Behaviors are named as in the vocabulary, after any taxonomy; one that it does not name is a candidate of that person's
from then on. A place may be left out. A key "user" (text or a whole number) says whose a line is, as in a log: 7.0 is
7, and a UUID the same in capitals; of it only a hash is kept, in this program's memory. --order-only gives "at_least"
and "at_most" instead of "probability", which differ where a language model alone answers.

Times are local, or have an offset if params.yaml has a source.time_zone. Each person's lines stand in their order, by
instant: in the hour that comes twice when clocks go back a local time is the first of the two that is not before the
last event. Where no time zone is set, nobody knows that hour, so a time may be up to one hour before the latest.

What a person's events left in a language model is kept between the lines, so an answer costs the new events, not the
history. At most --max-people keep it, in at most --max-memory with all people's events; the longest unused lets go
first. Events stay (14 bytes each, the latest 4,096 at most), so the next answer to whom let go is the same, up to
rounding, and takes the time of reading them anew. Standard error says at the end how many answers that were.

--decision says what an answer goes by: plain, the likeliest first; calibrated, the same with probabilities at the
temperature chosen on validation; adjusted, the largest p(y|x) / π(y)^τ first, with τ chosen on validation, so that rare
behaviours get their turn. Then "adjusted" stands beside "probability": that value's share among all candidates, by
which they are in order. Temperature and τ stand in the model's metrics, which `dvc repro` writes.

A language model is told a question's time and place where prompt.context is next; where it is history or id it answers
alone without them (a time has to be there all the same). With id it ignores those of the events too, except for their
order.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from stages.common import tables
from stages.common.console import console
from stages.common.errors import UserError, run
from stages.common.stage import at_least_1
from stages.params import read_all
from stages.serving.decision import Decision
from stages.serving.lines import lines_of, parse
from stages.serving.people import DEFAULT, Limits, People
from stages.serving.person import Person, Predictor

__all__ = ["Decision", "Person", "Predictor", "answers"]

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


class Answers:
    """The answer to each line that asks or is bad; `lines`, `bad` and `people.read_anew` count what was seen."""

    def __init__(self, predictor: Predictor, top: int, order_only: bool, limits: Limits = DEFAULT):
        self.people = People(predictor, limits)
        self.top, self.order_only = top, order_only
        self.lines = self.bad = 0

    def to(self, lines: Iterable[bytes | str]) -> Iterator[dict[str, Any]]:
        for line in lines:
            self.lines += 1
            if (answer := self._answer(line)) is not None:
                yield {"line": self.lines, **answer}

    def _answer(self, line: bytes | str) -> dict[str, Any] | None:
        try:
            if self.lines == 1 and isinstance(line, bytes):
                line = line.removeprefix(b"\xef\xbb\xbf")
            user, time, place, behavior = parse(line)
            if behavior is not None:
                self.people.append(user, time, place, behavior)
                return None
            found = self.people.predict(user, time, place, self.top if self.order_only else None)
            return {"predictions": found[: self.top]}
        except UserError as error:
            self.bad += 1
            return {"error": str(error)}

    def report(self) -> None:
        """Say what the answers alone do not."""
        if self.bad:
            console.print(f"{self.bad:,} of {self.lines:,} lines were bad, each answered with its error",
                          soft_wrap=True)
        if self.people.read_anew:
            console.print(f"{self.people.read_anew:,} answers took the time of reading a person's events anew; "
                          "--max-memory and --max-people set how many need not", soft_wrap=True)


def answers(
    lines: Iterable[bytes | str], predictor: Predictor, top: int, order_only: bool, limits: Limits = DEFAULT
) -> Iterator[dict[str, Any]]:
    """The answer to each question among `lines`, and to each line that is neither event nor question."""
    return Answers(predictor, top, order_only, limits).to(lines)


def memory(text: str) -> int:
    """Bytes of `500MB` or `4GB`."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)B?\s*", text, re.IGNORECASE)
    if found is None or not (size := int(float(found[1]) * _UNITS[found[2].upper()])):
        raise argparse.ArgumentTypeError(f"{text!r}: a size such as 500MB or 4GB is needed")
    return size


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m stages.predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=Path("models/fusion"),
                        help="folder of a pool, of the model of habits, or of a language model (default: %(default)s)")
    parser.add_argument("--parts", type=Path, metavar="FOLDER",
                        help="where the models stand that a pool names (default: where the pool stands)")
    parser.add_argument("--vocabulary", type=Path, default=Path("data/vocabulary.parquet"),
                        help="the candidates, from stage windowing (default: %(default)s)")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="the settings (default: %(default)s)")
    parser.add_argument("--input", type=argparse.FileType("rb"), default=sys.stdin.buffer,
                        help="JSON Lines in UTF-8 (default: standard input)")
    parser.add_argument("--top", type=at_least_1, default=5, help="candidates in an answer (default: %(default)s)")
    parser.add_argument("--order-only", action="store_true",
                        help="probabilities as bounds: a language model alone is faster, as it reads no more "
                             "candidates than the order needs")
    parser.add_argument("--decision", choices=("plain", "calibrated", "adjusted"), default="plain",
                        help="what an answer goes by, see above (default: %(default)s)")
    parser.add_argument("--metrics", type=Path,
                        help="metrics with τ and temperature (default: data/evaluation/<name of the model>.json)")
    parser.add_argument("--max-people", type=at_least_1, default=DEFAULT.people,
                        help="people whose keys and values are kept (default: %(default)s)")
    parser.add_argument("--max-memory", type=memory, default=DEFAULT.bytes, metavar="SIZE",
                        help="bytes of all keys and values that are kept, and of all people's events, such as 500MB; "
                             "the model's own memory comes on top (default: 4GB)")
    args = parser.parse_args()
    if args.order_only and args.decision != "plain":
        parser.error("--order-only knows the order of the plain probabilities only; leave out it or --decision")
    return args


def main() -> None:
    args = _arguments()
    decision = Decision.read(args.decision, args.metrics or Path("data/evaluation") / f"{args.model.name}.json")
    vocabulary, params = tables.read("vocabulary", args.vocabulary), read_all(args.params)
    predictor = Predictor(args.model, vocabulary, params, decision, args.parts)
    service = Answers(predictor, args.top, args.order_only, Limits(args.max_people, args.max_memory))
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    try:
        for answer in service.to(lines_of(args.input)):
            print(json.dumps(answer, ensure_ascii=False), flush=True)
    except BrokenPipeError:  # whoever asked has heard enough
        sys.stdout = None
    finally:
        service.report()


if __name__ == "__main__":
    run(main)
