"""SASRec and BERT4Rec beside RecBole's, trained on the same windows and asked for the same.

    pip install recbole==1.2.1 'pandas<3'
    python -m stages.baselines.research.library

It reads the tables that `dvc repro windowing` makes.

Behaviours alone, since RecBole's know no times and places. Both sides have the same dimensions, blocks, heads, dropout
and rate, learn from the same targets, and stop when the mean reciprocal rank of half of the validation users no longer
improves; the other half's windows are what is compared, with a bootstrap over users. RecBole learns from each target
apart, its whole history before it, where ours learns from all of a sequence at once, cut anew each epoch. Batches of
BERT4Rec are as many masked sequences on both sides; SASRec's are 1,024 targets there and 128 sequences here, which are
about as many where windowing.history is 10. Gradients are clipped here and not there. RecBole's own loss, batches,
masks and scores are used, and none of its evaluation. For BERT4Rec it draws negatives outside the history, which its
loss does not read: with a history that holds every behaviour it would never end. Tests without RecBole cover all but
its side.
"""

import contextlib
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from stages.baselines.fitting.sequences import Sequences
from stages.baselines.fitting.settings import Budget, Transformer
from stages.baselines.research.command import add_log, of_users, parser_of, read_log, train
from stages.baselines.sequential.sasrec import SASRec
from stages.baselines.sequential.training import fit, mean_reciprocal_rank, predict
from stages.baselines.systems import bert4rec
from stages.common.console import console
from stages.common.draws import stream
from stages.common.errors import UserError, run
from stages.common.stage import at_least_1
from stages.metrics.bootstrap import Metrics, paired_difference
from stages.params import read_all

SHARED: dict[str, Any] = {
    "dropout": [0.2], "learning_rate": [0.001], "weight_decay": [0.0], "warmup": [0], "dimensions": [64],
}
OURS = {
    "SASRec": Transformer(**SHARED, blocks=[2], heads=[1], batch_size=[128], epochs=[100]),
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

Scores = Callable[[np.ndarray], np.ndarray]
"""Scores `(N, V)` of the windows whose targets are rows `(N,)`."""


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


def fit_ours(name: str, sequences: Sequences, chosen_by: np.ndarray, seed: int) -> Scores:
    """By what the project fits, and chooses by the windows `chosen_by`."""
    kind = {"SASRec": lambda settings: SASRec(sequences, settings, "id", "ce"),
            "BERT4Rec": lambda settings: bert4rec.BERT4Rec(sequences, settings, "id")}[name]
    budget = Budget(trials=1, valid_windows=len(chosen_by), patience=PATIENCE, windows_per_validation=1)
    model = fit(f"{name}, ours", kind, sequences, OURS[name], budget, seed).model
    return lambda rows: predict(model, sequences, rows)


def fit_theirs(name: str, sequences: Sequences, chosen_by: np.ndarray, seed: int, folder: Path) -> Scores:
    """The same by RecBole, whose data set is written to `folder`."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.data.interaction import Interaction
    from recbole.utils import get_model, get_trainer, init_seed

    # RecBole 1.2.1 asks NumPy for names that it had before version 2
    for old, now in {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_}.items():
        setattr(np, old, now)
    write_recbole(sequences, {"train": sequences.train_rows(), "valid": chosen_by, "test": chosen_by}, folder)
    settings = {
        "data_path": str(folder), "benchmark_filename": ["train", "valid", "test"],
        "alias_of_item_id": ["item_id_list"], "load_col": {"inter": ["user_id", "item_id_list", "item_id"]},
        "MAX_ITEM_LIST_LENGTH": sequences.length, "loss_type": "CE", "train_neg_sample_args": None,
        "hidden_size": 64, "hidden_dropout_prob": 0.2, "attn_dropout_prob": 0.2,
        "learning_rate": 0.001, "seed": seed, "use_gpu": False, "show_progress": False, "state": "ERROR",
        "checkpoint_dir": str(folder / "saved"), **THEIRS[name],
    }
    with contextlib.chdir(folder):  # it leaves logs where it is called
        config = Config(model=name, dataset="windows", config_dict=settings)
        init_seed(seed, reproducibility=True)
        dataset = create_dataset(config)
        batches, _, _ = data_preparation(config, dataset)
        model = get_model(name)(config, batches.dataset)
        trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
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

    chosen_by, label = sequences.known(chosen_by)
    train(f"{name}, RecBole's", model, OURS[name].epochs[0], PATIENCE,
          lambda epoch: trainer._train_epoch(batches, epoch, show_progress=False),
          lambda: mean_reciprocal_rank(scores(chosen_by), label))
    return scores


def histories(sequences: Sequences, rows: np.ndarray) -> list[list[int]]:
    """The behaviours of each window's history, oldest first."""
    batch = sequences.windows(rows)
    pairs = zip(batch.behavior.numpy(), ~batch.padding.numpy(), strict=True)
    return [behavior[there].tolist() for behavior, there in pairs]


def write_recbole(sequences: Sequences, rows: dict[str, np.ndarray], folder: Path) -> None:
    """RecBole's files of the data set `windows`: a line a window, its user, history and behaviour."""
    (folder / "windows").mkdir(parents=True)
    for split, some in rows.items():
        known, labels = sequences.known(some)
        users = sequences.windows(known).user.tolist()
        lines = ["user_id:token\titem_id_list:token_seq\titem_id:token"]
        for user, history, label in zip(users, histories(sequences, known), labels, strict=True):
            lines.append(f"{user}\t{' '.join(map(str, history))}\t{label}")
        (folder / "windows" / f"windows.{split}.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")


def compare(name: str, events: pl.DataFrame, windows: pl.DataFrame, vocabulary: pl.DataFrame, length: int,
            seeds: Sequence[int]) -> None:
    """Print both sides' figures and their difference."""
    whole = Sequences(events, windows, vocabulary, length)
    chosen_by, compared = halves(whole, whole.valid_rows(windows.height, 0))
    # what chooses must not see the windows that are compared
    sequences = Sequences(events, windows.filter(~pl.col("row").is_in(compared)), vocabulary, length)
    rows, label = sequences.known(compared)
    user, seconds = sequences.windows(rows).user.numpy(), [0.0, 0.0]
    found: tuple[list, list] = [], []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            sides: list[Callable[..., Scores]] = [fit_ours, partial(fit_theirs, folder=Path(folder) / "data")]
            for side, fit_side in enumerate(sides):
                began = time.monotonic()
                scores = fit_side(name, sequences, chosen_by, seed)
                seconds[side] += time.monotonic() - began
                found[side].append(answers(scores(rows), label))
    ours, theirs = map(means, found)
    gaps = paired_difference(ours, theirs, user, RESAMPLES, stream(0, "library differences"))
    for metric, gap in gaps.items():
        one, other = (float(side(np.ones((1, len(rows))))[metric][0]) for side in (ours, theirs))
        print(f"{name} {metric}: ours {one:.4f}, RecBole's {other:.4f}, difference {gap['difference']:+.4f} "
              f"({gap['low']:+.4f} to {gap['high']:+.4f}); {len(rows):,} windows of {len(np.unique(user))} users, "
              f"{len(sequences.train_rows()):,} training targets, seeds {', '.join(map(str, seeds))}", flush=True)
    print(f"{name}: fitted in {seconds[0]:.0f} s and {seconds[1]:.0f} s", flush=True)


def main() -> None:
    parser = parser_of("library", __doc__)
    add_log(parser)
    parser.add_argument("--baseline", choices=list(OURS), nargs="+", default=list(OURS), help="default: both")
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
    events, windows, vocabulary = read_log(args)
    windows = of_users(events, windows, args.users)
    for name in args.baseline:
        compare(name, events, windows, vocabulary, history, args.seeds)


if __name__ == "__main__":
    run(main)
