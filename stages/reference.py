"""Stage `reference`: predictions and metrics of the trivial rows, and of the oracle where the log is simulated."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from stages.common import tables
from stages.common.errors import UserError
from stages.common.params import Section, Seed
from stages.common.stage import Stage, json, table, table_folder
from stages.events.simulator.log import BEHAVIORS
from stages.metrics.adjust import adjusted
from stages.metrics.settings import Evaluate
from stages.metrics.summary import metrics_of
from stages.past.counting import LastBehavior, Majority, Markov, MostFrequent
from stages.windows.settings import Predictions, Windowing
from stages.windows.tested import tested

# float32 probabilities may underflow; one in a thousand billion costs nothing and keeps logarithms finite
_LEAST = 1e-12
_SHOWN = (("natural", "rec_w"), ("natural", "log_loss"), ("balanced", "overall"), ("balanced", "tail"))


class Params(Section):
    data_seed: Seed
    windowing: Windowing
    predictions: Predictions
    evaluate: Evaluate


def reference(
    events: pl.DataFrame,
    windows: pl.DataFrame,
    vocabulary: pl.DataFrame,
    wanted: pl.DataFrame,
    oracle: pl.DataFrame,
    params: Params,
) -> tuple[dict[str, pl.DataFrame], dict[str, Any]]:
    """Table `predictions` of every row by its name, and its metrics, each shaped as in `metrics/eval/<model>.json`.

    The most likely behaviour is the best answer for the natural metrics only: for a mean over behaviours it is the one
    of largest p(y|x) / π(y). Hence row `oracle_adjusted`, the oracle after logit adjustment with τ = 1 exactly: the
    ceiling of the balanced test set. It is not adjusted again. In every other row `adjusted` has the τ of
    `evaluate.tau`, as a model has.

    Args:
        wanted: the windows that every model answers, as `tested` gives them.
        oracle: needs the rows of `wanted` only. It is empty for a real log, and then there are no oracle rows.

    Raises:
        UserError: the oracle does not know a behaviour or a window.
    """
    share, rows = vocabulary["share"].to_numpy(), wanted["row"].to_numpy()
    log_p = _distributions(events, windows, vocabulary, rows, params.windowing.history)
    if oracle.height:
        log_p["oracle"] = oracle_log_p(oracle, rows, BEHAVIORS, vocabulary)
        log_p["oracle_adjusted"] = adjusted(log_p["oracle"], share, 1)
    predictions = {
        name: wanted.with_columns(log_p=pl.Series(values=values)).cast(tables.SCHEMAS["predictions"])
        for name, values in log_p.items()
    }
    metrics = {}
    for name, frame in predictions.items():
        done = {"tau": 0.0} if name == "oracle_adjusted" else {}
        metrics[name] = metrics_of(
            frame, events, vocabulary, params.evaluate.model_copy(update=done), params.data_seed
        )
    return predictions, metrics


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


def _distributions(
    events: pl.DataFrame, windows: pl.DataFrame, vocabulary: pl.DataFrame, rows: np.ndarray, history: int
) -> dict[str, np.ndarray]:
    """Log-probabilities `(N, V)` of `rows` under each trivial system."""
    systems = {"majority": Majority(), "last": LastBehavior(), "frequent": MostFrequent(history), "markov": Markov()}
    return {name: system.fit(events, windows, vocabulary).log_p(events, rows) for name, system in systems.items()}


def read_and_compare(
    events: pl.DataFrame, windows: pl.DataFrame, vocabulary: pl.DataFrame, oracle: pl.LazyFrame, params: Params
) -> tuple[dict[str, pl.DataFrame], dict[str, Any]]:
    """`reference`, of the windows that every model answers."""
    wanted = tested(events, windows, params.predictions, params.data_seed)
    return reference(events, windows, vocabulary, wanted, oracle_rows(wanted, oracle), params)


def oracle_rows(wanted: pl.DataFrame, oracle: pl.LazyFrame) -> pl.DataFrame:
    """The oracle's rows for the windows that are wanted: the table of a long log is larger than memory.

    Its first row comes too, so that an oracle of another log is not taken for that of a real log, which is empty.
    """
    rows = pl.col("row").is_in(wanted["row"].implode()) | (pl.col("row") == 0)
    return oracle.filter(rows).collect(engine="streaming")


def _message(args: Any, predictions: dict[str, pl.DataFrame], metrics: dict[str, Any]) -> str:
    def line(values: dict[str, Any]) -> str:
        shown = [(split, key, values[split][key]) for split, key in _SHOWN]
        return ", ".join(f"{split} {key} {'none' if value is None else f'{value:.4f}'}" for split, key, value in shown)

    return "\n".join(f"{name}: {line(values)}" for name, values in metrics.items())


STAGE = Stage(
    "reference", __doc__, read_and_compare, Params,
    reads={name: table(name) for name in ("events", "windows", "vocabulary")} | {"oracle": table("oracle", lazy=True)},
    writes={"out": table_folder("predictions", "folder for each baseline's table of predictions"),
            "metrics": json("the metrics of each (JSON)")},
    message=_message,
)

if __name__ == "__main__":
    STAGE.run()
