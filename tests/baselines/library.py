"""SASRec and BERT4Rec beside RecBole's, trained on the same windows and asked the same questions.

    pip install recbole==1.2.1 'pandas<3'
    python -m tests.baselines.library

It reads the tables that `dvc repro windowing` makes.

Behaviours alone, since RecBole's know no times and places. Both sides have the same dimensions, blocks, heads, dropout
and rate, learn from the same targets, and stop when the mean reciprocal rank of half of the validation users no longer
improves; the other half's windows are what is compared, with a bootstrap over users. RecBole learns from each target
apart, its whole history before it, where ours learns from all of a sequence at once, cut anew each epoch. Batches of
BERT4Rec are as many masked sequences on both sides; SASRec's are 1,024 targets there and 128 sequences here, which are
about as many where windowing.history is 10. Gradients are clipped here and not there. RecBole's own loss, batches, masks
and scores are used, and none of its evaluation. For BERT4Rec it draws negatives outside the history, which its loss does
not read: with a history that holds every behaviour it would never end. Tests without RecBole cover all but its side.
"""

import argparse
import contextlib
import copy
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from stages.baselines.fitting.settings import Budget
from stages.baselines.sequential.ranks import mean_reciprocal_rank
from stages.baselines.sequential.sequences import NO_LABEL, Sequences
from stages.baselines.sequential.training import fit, predict
from stages.baselines.systems import bert4rec, sasrec
from stages.common.console import console, track
from stages.common.errors import UserError, run
from stages.common import tables
from stages.common.stage import at_least_1
from stages.params import read_all
from stages.metrics.bootstrap import Metrics, paired_difference

READ = ("events", "windows", "vocabulary")
SHARED = {"dropout": [0.2], "learning_rate": [0.001], "weight_decay": [0.0], "warmup": [0], "dimensions": [64]}
OURS = {
    "SASRec": sasrec.Settings(**SHARED, blocks=[2], heads=[1], batch_size=[128], epochs=[100]),
    "BERT4Rec": bert4rec.Settings(**SHARED, blocks=[3], heads=[2], batch_size=[64], epochs=[200], masked=[0.2],
                                  maskings=[4]),
}
THEIRS: dict[str, dict[str, Any]] = {
    "SASRec": {"n_layers": 2, "n_heads": 1, "inner_size": 64, "hidden_act": "relu", "train_batch_size": 1024},
    "BERT4Rec": {"n_layers": 3, "n_heads": 2, "inner_size": 256, "hidden_act": "gelu", "mask_ratio": 0.2,
                 "ft_ratio": 0.5, "train_batch_size": 256},
}
PATIENCE, RESAMPLES = 5, 2000
_WINDOWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Question:
    """Windows by their targets' rows `(N,)`, ascending, and for each the numbers of its behaviour and of its user."""

    rows: np.ndarray
    label: np.ndarray
    user: np.ndarray

    @classmethod
    def of(cls, sequences: Sequences, rows: np.ndarray) -> "Question":
        """Of those of `rows` whose behaviour is in the vocabulary."""
        batch = sequences.windows(rows)
        label = batch.label[:, -1].numpy()
        known = label != NO_LABEL
        return cls(rows[known], label[known], batch.user.numpy()[known])


def answers(scores: np.ndarray, label: np.ndarray) -> dict[str, np.ndarray]:
    """Whether the likeliest behaviour is the right one, and the right one's reciprocal rank, `(N,)` each."""
    rank = (scores >= scores[np.arange(len(label)), label][:, None]).sum(axis=1)  # ties count against the label
    return {"accuracy": (rank == 1).astype(float), "reciprocal rank": 1 / rank}


def means(found: list[dict[str, np.ndarray]]) -> Metrics:
    """Of each answer over seeds, and then over windows under weights."""
    each = {name: np.mean([of[name] for of in found], axis=0) for name in found[0]}
    return lambda weights: {name: weights @ value / weights.sum(axis=1) for name, value in each.items()}


def halves(sequences: Sequences, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`rows` of validation windows in two parts that share no user."""
    user = np.unique(sequences.windows(rows).user.numpy(), return_inverse=True)[1]
    return rows[user % 2 == 0], rows[user % 2 == 1]


def fit_ours(system: str, sequences: Sequences, chosen_by: np.ndarray, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """Scores `(N, V)` of windows, by what the project fits."""
    kind = {"SASRec": lambda settings: sasrec.SASRec(sequences, settings, "id", "ce"),
            "BERT4Rec": lambda settings: bert4rec.BERT4Rec(sequences, settings, "id")}[system]
    budget = Budget(trials=1, valid_windows=len(chosen_by), patience=PATIENCE, windows_per_look=1)
    model = fit(f"{system}, ours", kind, sequences, OURS[system], budget, seed).model
    return lambda rows: predict(model, sequences, rows)


def fit_theirs(system: str, sequences: Sequences, chosen_by: Question, seed: int, folder: Path
               ) -> Callable[[np.ndarray], np.ndarray]:
    """The same by RecBole, whose data set is written to `folder`."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.data.interaction import Interaction
    from recbole.utils import get_model, get_trainer, init_seed

    # RecBole 1.2.1 asks NumPy for names that it had before version 2
    for name, now in {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_}.items():
        setattr(np, name, now)
    write_recbole(sequences, {"train": sequences.train_rows(), "valid": chosen_by.rows, "test": chosen_by.rows}, folder)
    settings = {
        "data_path": str(folder), "benchmark_filename": ["train", "valid", "test"],
        "alias_of_item_id": ["item_id_list"], "load_col": {"inter": ["user_id", "item_id_list", "item_id"]},
        "MAX_ITEM_LIST_LENGTH": sequences.length, "loss_type": "CE", "train_neg_sample_args": None,
        "hidden_size": 64, "hidden_dropout_prob": 0.2, "attn_dropout_prob": 0.2,
        "learning_rate": 0.001, "seed": seed, "use_gpu": False, "show_progress": False, "state": "ERROR",
        "checkpoint_dir": str(folder / "saved"), **THEIRS[system],
    }
    with contextlib.chdir(folder):  # it leaves logs where it is called
        config = Config(model=system, dataset="windows", config_dict=settings)
        init_seed(seed, reproducibility=True)
        dataset = create_dataset(config)
        train, _, _ = data_preparation(config, dataset)
        model = get_model(system)(config, train.dataset)
        trainer = get_trainer(config["MODEL_TYPE"], system)(config, model)
    # a behaviour that no training window shows has no number there, and is never its answer
    number = np.array([dataset.field2token_id["item_id"].get(str(each), 0) for each in range(sequences.size + 1)])

    @torch.no_grad()
    def scores(rows: np.ndarray) -> np.ndarray:
        model.eval()
        found = []
        for start in range(0, len(rows), _WINDOWS_AT_ONCE):
            history = histories(sequences, rows[start : start + _WINDOWS_AT_ONCE])
            ids, lengths = np.zeros((len(history), sequences.length), dtype=np.int64), [len(each) for each in history]
            for place, each in zip(ids, history, strict=True):
                place[: len(each)] = number[each]
            asked = Interaction({"item_id_list": torch.from_numpy(ids), "item_length": torch.tensor(lengths)})
            every = model.full_sort_predict(asked)
            every[:, 0] = torch.finfo(every.dtype).min
            found.append(every[:, number[:-1]].numpy())
        return np.concatenate(found)

    best, best_epoch, weights, epoch = -1.0, 0, {}, 0
    with track(f"{system}, RecBole's, epochs", OURS[system].epochs[0]) as progress:
        while epoch < OURS[system].epochs[0] and epoch - best_epoch < PATIENCE:
            epoch += 1
            trainer._train_epoch(train, epoch, show_progress=False)
            score = mean_reciprocal_rank(scores(chosen_by.rows), chosen_by.label)
            progress.advance(1, f"{score:.4f}")
            if score > best:
                best, best_epoch, weights = score, epoch, copy.deepcopy(model.state_dict())
    if not weights:
        raise UserError(f"{system}: RecBole's scores are no numbers")
    model.load_state_dict(weights)
    return scores


def histories(sequences: Sequences, rows: np.ndarray) -> list[list[int]]:
    """The behaviours of each window's history, oldest first."""
    batch = sequences.windows(rows)
    pairs = zip(batch.behavior.numpy(), ~batch.padding.numpy(), strict=True)
    return [behavior[there].tolist() for behavior, there in pairs]


def of_users(events: pl.DataFrame, windows: pl.DataFrame, most: int | None) -> pl.DataFrame:
    """`windows` without the training windows of all but `most` of the training users, which are drawn."""
    user, train = events["user"].to_numpy()[windows["row"].to_numpy()], (windows["split"] == "train").to_numpy()
    drawn = np.random.default_rng(0).permutation(np.unique(user[train]))[:most]
    return windows.filter(pl.Series(~train | np.isin(user, drawn)))


def write_recbole(sequences: Sequences, rows: dict[str, np.ndarray], folder: Path) -> None:
    """RecBole's files of the data set `windows`: a line a window, its user, history and behaviour."""
    (folder / "windows").mkdir(parents=True)
    for split, some in rows.items():
        asked = Question.of(sequences, some)
        lines = ["user_id:token\titem_id_list:token_seq\titem_id:token"]
        for user, history, label in zip(asked.user, histories(sequences, asked.rows), asked.label, strict=True):
            lines.append(f"{user}\t{' '.join(map(str, history))}\t{label}")
        (folder / "windows" / f"windows.{split}.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")


def compare(system: str, events: pl.DataFrame, windows: pl.DataFrame, vocabulary: pl.DataFrame, length: int,
            seeds: Sequence[int]) -> None:
    """Print both sides' figures and their difference."""
    whole = Sequences(events, windows, vocabulary, length)
    chosen_by, compared = halves(whole, whole.valid_rows(windows.height, 0))
    # what chooses must not see the windows that are compared
    sequences = Sequences(events, windows.filter(~pl.col("row").is_in(compared)), vocabulary, length)
    asked, ours, theirs, seconds = Question.of(sequences, compared), [], [], [0.0, 0.0]
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            for side, (found, fitted) in enumerate((
                (ours, lambda seed=seed: fit_ours(system, sequences, chosen_by, seed)),
                (theirs, lambda seed=seed, folder=folder: fit_theirs(
                    system, sequences, Question.of(sequences, chosen_by), seed, Path(folder) / "data")),
            )):
                began = time.monotonic()
                scores = fitted()
                seconds[side] += time.monotonic() - began
                found.append(answers(scores(asked.rows), asked.label))
    plain = np.ones((1, len(asked.rows)))
    gaps = paired_difference(means(ours), means(theirs), asked.user, RESAMPLES, np.random.default_rng(0))
    for name, gap in gaps.items():
        one, other = (float(means(side)(plain)[name][0]) for side in (ours, theirs))
        print(f"{system} {name}: ours {one:.4f}, RecBole's {other:.4f}, difference {gap['difference']:+.4f} "
              f"({gap['low']:+.4f} to {gap['high']:+.4f}); {len(asked.rows):,} windows of {len(np.unique(asked.user))} "
              f"users, {len(sequences.train_rows()):,} training targets, seeds {', '.join(map(str, seeds))}", flush=True)
    print(f"{system}: fitted in {seconds[0]:.0f} s and {seconds[1]:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.baselines.library", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="the settings (default: %(default)s)")
    for table in READ:
        parser.add_argument(f"--{table}", type=Path, default=Path(f"data/{table}.parquet"),
                            help=f"table: {tables.CONTENT[table]} (default: %(default)s)")
    parser.add_argument("--system", choices=list(OURS), nargs="+", default=list(OURS), help="default: both")
    parser.add_argument("--users", type=at_least_1, metavar="N",
                        help="training users, a draw, where all would take too long (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of both sides (default: 0)")
    args = parser.parse_args()
    try:
        import recbole
    except ImportError:
        raise UserError("recbole is not installed: pip install recbole==1.2.1 'pandas<3'") from None
    console.print(f"RecBole {recbole.__version__}")
    history = read_all(args.params).windowing.history
    events, windows, vocabulary = (tables.read(table, getattr(args, table)) for table in READ)
    windows = of_users(events, windows, args.users)
    for system in args.system:
        compare(system, events, windows, vocabulary, history, args.seeds)


if __name__ == "__main__":
    run(main)
