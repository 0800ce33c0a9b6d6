"""Stage `reference`: the metrics of the trivial rows, and of the oracle where the log is simulated."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from stages.baselines.trivial import LastBehavior, Majority, Markov, MostFrequent
from stages.common import tables
from stages.common.console import console
from stages.common.errors import UserError, run
from stages.common.files import write_json
from stages.common.params import Params, read_params
from stages.events.simulator import BEHAVIORS
from stages.ranking.adjust import adjusted
from stages.ranking.summary import SPLITS, metrics_of

# float32 probabilities may underflow; one in a thousand billion costs nothing and keeps logarithms finite
_LEAST = 1e-12
_SHOWN = (("natural", "rec_w"), ("natural", "log_loss"), ("balanced", "overall"), ("balanced", "tail"))


def reference(
    events: pl.DataFrame, windows: pl.DataFrame, vocabulary: pl.DataFrame, oracle: pl.DataFrame, params: Params
) -> dict[str, Any]:
    """Metrics of every row by its name, each shaped as in `metrics/eval/<model>.json`.

    `oracle` needs the rows of the test windows only. It is empty for a real log, and then there is no such row. The
    most likely behaviour is the best answer for the natural metrics only: for a mean over behaviours it is the one of
    largest p(y|x) / π(y). Hence the rows ending in `_adjusted`, logit adjustment with τ = 1, whose ceiling on the
    balanced test set is `oracle_adjusted`.
    """
    test = windows.filter(pl.col("split").is_in(SPLITS))
    rows = test["row"].to_numpy()
    test = test.with_columns(behavior=events["behavior"].gather(rows))
    metrics = {}
    for name, log_p in _distributions(events, windows, vocabulary, oracle, rows, params.windowing.history).items():
        predictions = test.with_columns(log_p=pl.Series(values=log_p)).cast(tables.SCHEMAS["predictions"])
        metrics[name] = metrics_of(predictions, events, vocabulary, params.evaluate, params.seed)
    return metrics


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
    events: pl.DataFrame,
    windows: pl.DataFrame,
    vocabulary: pl.DataFrame,
    oracle: pl.DataFrame,
    rows: np.ndarray,
    history: int,
) -> dict[str, np.ndarray]:
    share = vocabulary["share"].to_numpy()
    systems = {"majority": Majority(), "last": LastBehavior(), "frequent": MostFrequent(history), "markov": Markov()}
    log_p = {name: system.fit(events, windows, vocabulary).log_p(events, rows) for name, system in systems.items()}
    log_p["markov_adjusted"] = adjusted(log_p["markov"], share, 1)
    if oracle.height:
        log_p["oracle"] = oracle_log_p(oracle, rows, BEHAVIORS, vocabulary)
        log_p["oracle_adjusted"] = adjusted(log_p["oracle"], share, 1)
    return log_p


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.reference", description=__doc__)
    parser.add_argument("--params", type=Path, required=True, help="params.yaml")
    parser.add_argument("--events", type=Path, required=True, help="the log: events.parquet")
    parser.add_argument("--windows", type=Path, required=True, help="windows and their splits: windows.parquet")
    parser.add_argument("--vocabulary", type=Path, required=True, help="behaviours and groups: vocabulary.parquet")
    parser.add_argument("--oracle", type=Path, required=True, help="the simulator's own probabilities: oracle.parquet")
    parser.add_argument("--metrics", type=Path, required=True, help="where the metrics go, JSON")
    args = parser.parse_args()
    params = read_params(args.params)
    events, windows, vocabulary = (
        tables.read(table, getattr(args, table)) for table in ("events", "windows", "vocabulary")
    )
    oracle = _tested(tables.scan("oracle", args.oracle), windows, args.oracle)
    rows = reference(events, windows, vocabulary, oracle, params)
    write_json(args.metrics, rows)
    for name, metrics in rows.items():
        shown = [f"{split} {key} {_shown(metrics[split][key])}" for split, key in _SHOWN]
        console.print(f"{name}: {', '.join(shown)}", soft_wrap=True)


def _tested(oracle: pl.LazyFrame, windows: pl.DataFrame, path: Path) -> pl.DataFrame:
    """The oracle's rows for the test windows: the table of a long log is larger than memory.

    Its first row comes too, so that an oracle of another log is not taken for that of a real log, which is empty.
    """
    rows = windows.filter(pl.col("split").is_in(SPLITS))["row"]
    with tables.reading(path):
        return oracle.filter(pl.col("row").is_in(rows.implode()) | (pl.col("row") == 0)).collect(engine="streaming")


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"


if __name__ == "__main__":
    run(main)
