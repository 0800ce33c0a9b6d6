"""How much log a system needs: those trained from nothing on more and more people, beside Markov on as many.

    dvc repro windowing base
    python -m tests.baselines.growth --people 20 400 1600

Any log will do. The people are training users, a draw that holds the smaller draws. What is tested, and the validation
windows that end a training and choose τ, are the same for all, and so are the vocabulary and its shares, which Markov falls
back on: those are of all training users. Each number of people gives two tables: decisions as they are against Markov's as
they are, and with adjusted logits against Markov's adjusted. Systems have the first of their settings, as a study has with
budget.trials 1. Each is there as it is told the next event's time and place, and told behaviours alone (`_id`), and so is
Markov: what is told less is to be held against what is told as little.

Rows of a language model learn from `instructions.train_targets` targets of a study's windows; Markov on about as many
windows, of fewer people, is what can be counted there.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from stages.baselines.fitting.command import Task, table_of
from stages.baselines.fitting.settings import Context
from stages.baselines.language.names import names_of
from stages.baselines.sequential.training import Fitted, predict
from stages.baselines.systems.alphafuse import fit_alphafuse
from stages.baselines.systems.bert4rec import Collapsed, fit_bert4rec
from stages.baselines.systems.llmesr import fit_llmesr
from stages.baselines.systems.sasrec import fit_sasrec
from stages.common import tables
from stages.common.console import console
from stages.common.errors import UserError, run
from stages.common.stage import at_least_1
from stages.params import read_all
from stages.events.simulator.log import BEHAVIORS
from stages.metrics.decisions import decided, choose_tau
from stages.metrics.splits import read_splits
from stages.past.counting import Markov
from stages.reference import oracle_log_p, oracle_rows
from stages.studies.compare import Comparison, Summary, summarise
from stages.studies.repetitions import Repetition, RowResult
from stages.studies.table import markdown
from tests.baselines.library import of_users

READ = ("events", "windows", "vocabulary")
METRICS = ("natural.rec_w", "balanced.overall", "balanced.tail")
RESAMPLES = 1000
REFERENCE = "markov"

Answers = Callable[[np.ndarray], np.ndarray]
"""Log-probabilities `(N, V)` of the windows whose targets are rows `(N,)`."""

FITS: dict[str, Callable[[Task, Path], Fitted]] = {
    "sasrec_bce": lambda task, model: fit_sasrec(task, "bce"),
    "sasrec_ce": lambda task, model: fit_sasrec(task, "ce"),
    "bert4rec": lambda task, model: fit_bert4rec(task),
    "alphafuse": lambda task, model: fit_alphafuse(task, names_of(task, model)),
    "llmesr": lambda task, model: fit_llmesr(task, names_of(task, model)),
}
CONTEXTS: dict[Context, str] = {"id": "_id", "next": ""}
ROWS = {f"{name}{suffix}": (name, context) for name in FITS for context, suffix in CONTEXTS.items()}


class MarkovAlone(Markov):
    """Told behaviours alone."""

    levels = (("last",),)


class OneSetting(Task):
    """The default of each system's settings, and no other."""

    def settings(self, section, kind):
        budget, values = super().settings(section, kind)
        return budget.model_copy(update={"trials": 1}), values


@dataclass(frozen=True)
class Row:
    """A system that answers the windows which are tested, and what it took."""

    name: str
    answers: Answers
    facts: dict[str, float]


def counted(task: Task) -> Iterator[Row]:
    """Markov, told as much as the others and told behaviours alone."""
    for name, kind in ((REFERENCE, Markov), (f"{REFERENCE}_id", MarkovAlone)):
        fitted = kind().fit(task.events, task.windows, task.vocabulary)
        yield Row(name, lambda rows, fitted=fitted: fitted.log_p(task.events, rows), {})


def learned(task: Task, names: Sequence[str], model: Path) -> Iterator[Row]:
    """Of `ROWS`, those of the names given; what collapses on a small log is said and left out."""
    for name in names:
        system, context = ROWS[name]
        told, began = replace(task, context=context), time.monotonic()
        try:
            fitted = FITS[system](told, model)
        except Collapsed as error:
            console.print(f"{name} is left out: {error}", soft_wrap=True)
            continue
        facts = {"trained_targets": len(told.sequences.train_rows()), "fit_seconds": time.monotonic() - began}
        yield Row(name, lambda rows, model=fitted.model, told=told: predict(model, told.sequences, rows), facts)


def summaries(task: Task, rows: Sequence[Row], resamples: int = RESAMPLES) -> tuple[Summary, Summary]:
    """The rows' decisions as they are, and with adjusted logits, each against Markov's."""
    wanted, share = task.tested(), task.vocabulary["share"].to_numpy()
    users, tested = task.events["user"].gather(wanted["row"]), wanted["row"].to_numpy()
    plain, moved = [], []
    for row in rows:
        frame = table_of(wanted, row.answers(tested))
        tau = choose_tau(read_splits(frame, task.events, task.vocabulary)["valid_balanced"], share, task.params.evaluate)
        plain.append(RowResult(row.name, row.name, [Repetition(0, frame, users, row.facts)]))
        label = f"{row.name}, τ = {tau:g}"
        moved.append(RowResult(row.name, label, [Repetition(0, decided(frame, share, tau), users, row.facts)]))
    comparison = Comparison(METRICS, resamples=resamples)
    return tuple(summarise(part, task.vocabulary, REFERENCE, comparison, np.random.default_rng(task.params.data_seed))
                 for part in (plain, moved))


def grow(task: Task, people: Sequence[int], names: Sequence[str], model: Path, oracle: Answers | None) -> Iterator[str]:
    """Two tables in Markdown for each number of `people`; `oracle` is the simulator's own answer.

    Raises:
        UserError: the log has fewer training users; before anything is fitted.
    """
    there = task.events["user"].gather(task.windows.filter(split="train")["row"]).n_unique()
    if (most := max(people)) > there:
        raise UserError(f"--people {most}: the log has {there} training users; give at most that")
    for number in people:
        some = replace(task, windows=of_users(task.events, task.windows, number))
        rows = [*counted(some), *learned(some, names, model)]
        rows += [Row("oracle", oracle, {})] if oracle else []
        size = f"{number:,} people, {some.windows.filter(split='train').height:,} training windows"
        for summary, how in zip(summaries(some, rows), ("as they are", "with adjusted logits"), strict=True):
            yield markdown(summary, f"{size}, decisions {how}", "")


def oracle_of(path: Path, task: Task) -> Answers | None:
    """The simulator's own log-probabilities of the windows that are tested; none where the log is real.

    Raises:
        UserError: the oracle is of another log.
    """
    if not path.exists():
        return None
    wanted = task.tested()
    oracle = oracle_rows(wanted, tables.scan("oracle", path))
    if not oracle.height:
        return None
    # to be refused now, and not after all fits
    oracle_log_p(oracle, wanted["row"].to_numpy(), BEHAVIORS, task.vocabulary)
    return lambda asked: oracle_log_p(oracle, asked, BEHAVIORS, task.vocabulary)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.baselines.growth", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=at_least_1, nargs="+", required=True, metavar="N", help="training users")
    parser.add_argument("--rows", choices=list(ROWS), nargs="+", metavar="ROW",
                        default=["sasrec_bce_id", "sasrec_bce", "sasrec_ce_id", "sasrec_ce"],
                        help=f"beside Markov, any of {', '.join(ROWS)} (default: SASRec's four)")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="the settings (default: %(default)s)")
    parser.add_argument("--settings", type=Path, default=Path("stages/baselines/params.yaml"),
                        help="what systems are tuned over; the first of each is taken (default: %(default)s)")
    parser.add_argument("--model", type=Path, default=Path("models/base"), help="folder with base.json of the language "
                        "model, which reads names for AlphaFuse and LLM-ESR (default: %(default)s)")
    for table in READ:
        parser.add_argument(f"--{table}", type=Path, default=Path(f"data/{table}.parquet"),
                            help=f"table: {tables.CONTENT[table]} (default: %(default)s)")
    parser.add_argument("--oracle", type=Path, default=Path("data/oracle.parquet"),
                        help="the simulator's own probabilities, a row more if they are there (default: %(default)s)")
    args = parser.parse_args()
    task = OneSetting(*(tables.read(table, getattr(args, table)) for table in READ), read_all(args.params), args.settings, "next")
    names = list(dict.fromkeys(args.rows))
    for text in grow(task, args.people, names, args.model, oracle_of(args.oracle, task)):
        print(text, flush=True)


if __name__ == "__main__":
    run(main)
