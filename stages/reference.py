"""Stage `reference`: predictions and metrics of baselines that count, and of the oracle where the log is simulated."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from stages.common import tables
from stages.common.errors import UserError
from stages.common.files import DIGITS, write_json
from stages.common.params import Section, Seed
from stages.common.stage import Kind, Stage, table, table_folder
from stages.events.simulator.log import BEHAVIORS
from stages.metrics.adjust import adjusted
from stages.metrics.caveats import caveats
from stages.metrics.registry import headline, headline_text
from stages.metrics.settings import Evaluate
from stages.metrics.summary import measure
from stages.past.counting import LastBehavior, Majority, Markov, MostFrequent
from stages.past.whole import WholePast
from stages.windows.past import Past
from stages.windows.settings import Predictions, Windowing
from stages.windows.tested import tested

BASELINES = ("majority", "last", "frequent", "markov", "past", "oracle", "oracle_adjusted")
# the others' distributions say little of rare behaviours, and `oracle_adjusted` is the oracle's
_ADJUSTED = ("markov", "past")
# float32 probabilities may underflow; one in a thousand billion costs nothing and keeps logarithms finite
_LEAST = 1e-12


class Params(Section):
    data_seed: Seed
    windowing: Windowing
    predictions: Predictions
    evaluate: Evaluate


def reference(
    events: pl.DataFrame, windows: pl.DataFrame, vocabulary: pl.DataFrame, oracle: pl.LazyFrame, params: Params
) -> tuple[dict[str, pl.DataFrame], dict[str, dict[str, float | None]], dict[str, dict[str, Any]]]:
    """By baseline: its table `predictions` of the windows that models answer, its headline, and all its metrics.

    The most likely behaviour is the best answer for the natural metrics only: for a mean over behaviours it is the one
    of largest p(y|x) / π(y). Hence `oracle_adjusted`, the oracle after logit adjustment with τ = 1 exactly: the ceiling
    of the balanced test set. It is not adjusted again. In every other baseline `adjusted` has the τ of `evaluate.tau`,
    as a model has.

    Args:
        oracle: table `oracle`; it is empty for a real log, and then the oracle is not among the baselines.

    Raises:
        UserError: the oracle does not know a behaviour or a window.
    """
    wanted = tested(events, windows, params.predictions, params.data_seed)
    rows = wanted["row"].to_numpy()
    markov = Markov()
    counting = {"majority": Majority(), "last": LastBehavior(), "frequent": MostFrequent(params.windowing.history),
                "markov": markov}
    past = Past.from_tables(events, vocabulary)
    log_p: dict[str, Any] = {name: each.fit(past, windows, vocabulary).log_p(past, rows)
                             for name, each in counting.items()}
    whole = WholePast().fit_on(markov, past, windows, vocabulary)
    log_p["past"] = [row.tolist() for row in whole.log_p(past, rows)]
    if (truth := oracle_rows(wanted, oracle)).height:
        log_p["oracle"] = oracle_log_p(truth, rows, BEHAVIORS, vocabulary)
        log_p["oracle_adjusted"] = adjusted(log_p["oracle"], vocabulary["share"].to_numpy(), 1)
    predictions, evaluations = {}, {}
    for name, values in log_p.items():
        predictions[name] = wanted.with_columns(log_p=pl.Series(values=values)).cast(tables.SCHEMAS["predictions"])
        evaluate = params.evaluate.model_copy(update={"tau": 0.0} if name == "oracle_adjusted" else {})
        evaluations[name] = measure(predictions[name], events, vocabulary, evaluate, params.data_seed)
    headlines = {name: headline(each, adjusted=name in _ADJUSTED) for name, each in evaluations.items()}
    return predictions, headlines, evaluations


def oracle_log_p(
    oracle: pl.DataFrame, rows: np.ndarray, names: Sequence[str], vocabulary: pl.DataFrame
) -> np.ndarray:
    """The true log-probabilities `(N, V)` float32 of `rows`, renormalised over the vocabulary.

    Args:
        oracle: the table `oracle`; its `p` is in the order of `names`.
        rows: events to look up `(N,)`.
        names: the simulator's behaviours.
        vocabulary: the behaviours wanted, in the order wanted.

    Raises:
        UserError: a row or a behaviour is unknown to the oracle.
    """
    if unknown := [name for name in vocabulary["behavior"] if name not in names]:
        raise UserError(f"the oracle does not know {unknown[:3]}; was the simulated log mapped by a taxonomy?")
    wanted = pl.DataFrame({"row": rows}, schema={"row": pl.Int64})
    p = wanted.join(oracle, on="row", how="left", maintain_order="left")["p"]
    if (p.list.len().fill_null(0) != len(names)).any():
        raise UserError(f"the oracle has no distribution over {len(names)} behaviours for every test window; "
                        "run `dvc repro` again")
    order = [names.index(name) for name in vocabulary["behavior"]]
    matrix = np.maximum(p.explode().to_numpy().reshape(-1, len(names))[:, order].astype(np.float64), _LEAST)
    return np.log(matrix / matrix.sum(axis=1, keepdims=True)).astype(np.float32)


def oracle_rows(wanted: pl.DataFrame, oracle: pl.LazyFrame) -> pl.DataFrame:
    """The oracle's rows for the windows that are wanted: the table of a long log is larger than memory.

    Its first row comes too, so that an oracle of another log is not taken for that of a real log, which is empty.
    """
    rows = pl.col("row").is_in(wanted["row"].implode()) | (pl.col("row") == 0)
    return oracle.filter(rows).collect(engine="streaming")


def _write_each(contents: Mapping[str, Any], folder: Path) -> None:
    """A file for each of `BASELINES`, since DVC expects them all: with nothing in it where there is no oracle."""
    for name in BASELINES:
        write_json(folder / f"{name}.json", contents.get(name, {}), DIGITS)


def _message(args: Any, predictions: Any, metrics: Mapping[str, Any], evaluations: Mapping[str, Any]) -> str:
    lines = [f"{name}: {headline_text(figures)}" for name, figures in metrics.items()]
    return "\n".join(lines + caveats(evaluations["majority"]))  # the same windows, and so the same words, for all


STAGE = Stage(
    "reference", __doc__, reference, Params,
    reads={name: table(name) for name in ("events", "windows", "vocabulary")} | {"oracle": table("oracle", lazy=True)},
    writes={"out": table_folder("predictions", "folder for each baseline's table of predictions"),
            "metrics": Kind("folder for the few figures of each that DVC lists (JSON)", write=_write_each),
            "evaluation": Kind("folder for all metrics of each (JSON)", write=_write_each)},
    message=_message,
)

if __name__ == "__main__":
    STAGE.run()
