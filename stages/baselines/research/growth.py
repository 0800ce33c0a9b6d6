"""How much log a baseline needs: those trained from nothing on more and more people, beside Markov on as many.

    dvc repro windowing base
    python -m stages.baselines.research.growth --people 20 400 1600

Any log will do. The people are training users, a draw that holds the smaller draws. What is tested, and the validation
windows that end a training and choose τ, are the same for all, and so are the vocabulary and its shares, which Markov
falls back on: those are of all training users. Each number of people gives two tables: decisions as they are against
Markov's as they are, and with adjusted logits against Markov's adjusted. Baselines have the first of their settings, as
a study has with budget.trials 1. Each is there as it sees the next event's time and place, and behaviours alone
(`_id`), and so is Markov: what sees less is to be held against what sees as little.

Language models learn from `instructions.train_targets` targets of a study's windows; Markov on about as many windows,
of fewer people, is what can be counted there.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from stages.baselines.fitting.settings import Context
from stages.baselines.fitting.stage import SETTINGS, predictions_of
from stages.baselines.fitting.task import Task
from stages.baselines.research.command import add_log, of_users, parser_of, read_log
from stages.baselines.sequential.sasrec import fit_sasrec
from stages.baselines.sequential.training import Fitted, predict
from stages.baselines.systems.alphafuse import fit_alphafuse
from stages.baselines.systems.bert4rec import Collapsed, fit_bert4rec
from stages.baselines.systems.llmesr import fit_llmesr
from stages.common import tables
from stages.common.console import console
from stages.common.draws import stream
from stages.common.errors import UserError, run
from stages.common.stage import at_least_1
from stages.events.simulator.log import BEHAVIORS
from stages.metrics.decisions import choose_tau, decided
from stages.metrics.splits import OpenTable
from stages.params import read_all
from stages.past.counting import Markov
from stages.windows.past import Past
from stages.reference import oracle_log_p, oracle_rows
from stages.studies.compare import Comparison, Summary, summarise
from stages.studies.repetitions import Repetition, RowResult
from stages.studies.table import markdown

METRICS = ("natural.rec_w", "balanced.overall", "balanced.tail")
RESAMPLES = 1000
REFERENCE = "markov"

Answers = Callable[[np.ndarray], np.ndarray]
"""Log-probabilities `(N, V)` of the windows whose targets are rows `(N,)`."""

FITS: dict[str, Callable[[Task, Path], Fitted]] = {
    "sasrec_bce": lambda task, model: fit_sasrec(task, "bce"), "sasrec_ce": lambda task, model: fit_sasrec(task, "ce"),
    "bert4rec": lambda task, model: fit_bert4rec(task), "alphafuse": fit_alphafuse, "llmesr": fit_llmesr,
}
CONTEXTS: dict[Context, str] = {"id": "_id", "next": ""}
NAMES = {f"{name}{suffix}": (name, context) for name in FITS for context, suffix in CONTEXTS.items()}


class MarkovAlone(Markov):
    """Sees behaviours alone."""

    levels = (("last",),)


class OneSetting(Task):
    """The default of each baseline's settings, and no other."""

    def settings(self, section, kind):
        budget, values = super().settings(section, kind)
        return budget.model_copy(update={"trials": 1}), values


@dataclass(frozen=True)
class Answering:
    """A baseline that answers the windows which are tested, and what it took."""

    name: str
    answers: Answers
    facts: dict[str, float]


def counted(task: Task) -> Iterator[Answering]:
    """Markov, which sees as much as the others and which sees behaviours alone."""
    past = Past.from_tables(task.events, task.vocabulary)
    for name, kind in ((REFERENCE, Markov), (f"{REFERENCE}_id", MarkovAlone)):
        yield Answering(name, partial(kind().fit(past, task.windows, task.vocabulary).log_p, past), {})


def learned(task: Task, names: Sequence[str], model: Path) -> Iterator[Answering]:
    """Of `NAMES`, those given; what collapses on a small log is said and left out."""
    for name in names:
        fit, context = NAMES[name]
        own, began = replace(task, context=context), time.monotonic()
        try:
            fitted = FITS[fit](own, model)
        except Collapsed as error:
            console.print(f"{name} is left out: {error}", soft_wrap=True)
            continue
        facts = {"trained_targets": len(own.sequences.train_rows()), "fit_seconds": time.monotonic() - began}
        yield Answering(name, partial(predict, fitted.model, own.sequences), facts)


def summaries(task: Task, baselines: Sequence[Answering], resamples: int = RESAMPLES) -> list[Summary]:
    """The baselines' decisions as they are, and with adjusted logits, each against Markov's."""
    wanted, share = task.tested(), task.vocabulary["share"].to_numpy()
    users, tested = task.events["user"].gather(wanted["row"]), wanted["row"].to_numpy()
    plain, moved = [], []
    for each in baselines:
        frame = predictions_of(wanted, each.answers(tested))
        table = OpenTable.of(frame, task.events, task.vocabulary)
        frame, own = table.frame(), table.windows.own
        tau = choose_tau(table.splits()["valid_balanced"], share, task.params.evaluate)
        plain.append(RowResult(each.name, each.name, [Repetition(0, frame, users, each.facts, own)]))
        adjusted = [Repetition(0, decided(frame, share, tau), users, each.facts, own)]
        moved.append(RowResult(each.name, f"{each.name}, τ = {tau:g}", adjusted))
    comparison = Comparison(METRICS, resamples=resamples)
    return [summarise(part, task.vocabulary, REFERENCE, comparison, stream(task.params.data_seed, "growth"))
            for part in (plain, moved)]


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
        baselines = [*counted(some), *learned(some, names, model)]
        baselines += [Answering("oracle", oracle, {})] if oracle else []
        size = f"{number:,} people, {some.windows.filter(split='train').height:,} training windows"
        for summary, how in zip(summaries(some, baselines), ("as they are", "with adjusted logits"), strict=True):
            yield markdown(summary, f"{size}, decisions {how}", "")


def oracle_of(path: Path, task: Task) -> Answers | None:
    """The simulator's own log-probabilities of the windows that are tested; none where the log is real."""
    wanted = task.tested()
    if not path.exists() or not (oracle := oracle_rows(wanted, tables.scan("oracle", path))).height:
        return None
    answers = partial(oracle_log_p, oracle, names=BEHAVIORS, vocabulary=task.vocabulary)
    answers(wanted["row"].to_numpy())  # to be refused now, and not after all fits
    return answers


def main() -> None:
    parser = parser_of("growth", __doc__)
    parser.add_argument("--people", type=at_least_1, nargs="+", required=True, metavar="N", help="training users")
    parser.add_argument("--baselines", choices=list(NAMES), nargs="+", metavar="NAME",
                        default=["sasrec_bce_id", "sasrec_bce", "sasrec_ce_id", "sasrec_ce"],
                        help=f"beside Markov, any of {', '.join(NAMES)} (default: SASRec's four)")
    add_log(parser)
    parser.add_argument("--settings", type=Path, default=SETTINGS,
                        help="what baselines are tuned over; the first of each is taken (default: %(default)s)")
    parser.add_argument("--model", type=Path, default=Path("models/base"), help="folder with base.json of the language "
                        "model, which reads names for AlphaFuse and LLM-ESR (default: %(default)s)")
    parser.add_argument("--oracle", type=Path, default=Path("data/oracle.parquet"),
                        help="the simulator's own probabilities, a row more if they are there (default: %(default)s)")
    args = parser.parse_args()
    task = OneSetting(*read_log(args), read_all(args.params), args.settings, "next")
    names = list(dict.fromkeys(args.baselines))
    for text in grow(task, args.people, names, args.model, oracle_of(args.oracle, task)):
        print(text, flush=True)


if __name__ == "__main__":
    run(main)
