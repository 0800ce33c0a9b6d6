"""SASRec against published figures: Amazon Beauty, the last item of each user predicted from all others.

    python -m stages.baselines.research.beauty --data amazon_beauty.txt.gz [--objective ce] [--epochs N]

Trains the project's own sequences, embedder and blocks as Klenitskiy and Vasilev (2023) trained theirs: 64 dimensions,
two blocks of one head, dropout .1, 50 items of history, batches of 128 users, Adam at 1e-3, the best epoch by NDCG@10
of 10,000 users' last but one item, ten epochs of patience. A user's last item is the test; all items are ranked, and
those that the user had before are left out, here and nowhere else in the project. Ours differs in that keys are normed
as queries are, in that embeddings are not multiplied by √D and weights start as torch has them, in padding on the left,
and in that a negative may be an item that the user had.

What is too heavy at 54,542 items is computed in another way, which tests hold to be the same number: the softmax block
by block, read again for its gradient, and one negative's score without all the others.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import torch
from polars.exceptions import PolarsError
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from stages.baselines.fitting.sequences import NO_LABEL, Batch, Sequences
from stages.baselines.research.command import parser_of, train
from stages.baselines.sequential.objectives import OBJECTIVES, Objective
from stages.baselines.sequential.sasrec import SASRec
from stages.common.console import console
from stages.common.device import device
from stages.common.draws import positions
from stages.common.errors import UserError, run
from stages.common.stage import at_least_1

PUBLISHED = {"bce": (0.0246, 0.0126), "ce": (0.0533, 0.0327)}
"""HR@10 and NDCG@10 of SASRec and of SASRec+ (github.com/antklen/sasrec-bert4rec-recsys23, README)."""

LENGTH, BATCH, RATE, EPOCHS, PATIENCE, VALID_USERS = 50, 128, 1e-3, 100, 10, 10_000
SETTINGS = {"dimensions": 64, "blocks": 2, "heads": 1, "dropout": 0.1}

_CUTOFF, _FEWEST_ITEMS = 10, 3
_LOSS_ROWS, _USERS_AT_ONCE = 64, 256


@dataclass(frozen=True)
class Log:
    """N interactions, sorted by user and then by time.

    `item` (N,) is 0 to V − 1, `first` (N,) the row of the same user's first one; `valid` and `test` are the rows of the
    users' last but one and last.
    """

    sequences: Sequences
    item: np.ndarray
    first: np.ndarray
    valid: np.ndarray
    test: np.ndarray


def read_log(path: Path, length: int = LENGTH) -> Log:
    """From a file with a line `user item` for each interaction, in time order, gzip or not.

    Users of fewer than three interactions are left out: one to learn from, one to choose by, one to test.

    Raises:
        UserError: the file is not of that form, or no user is left.
    """
    try:
        frame = pl.read_csv(path, separator=" ", has_header=False, new_columns=["user", "item"],
                            schema_overrides=[pl.UInt64, pl.UInt64])
    except PolarsError as error:
        raise UserError(f"{path}: not lines of `user item`, two whole numbers: {error}") from None
    if frame.width != 2 or frame.null_count().sum_horizontal().item():
        raise UserError(f"{path}: not lines of `user item`: {frame.width} columns")
    frame = frame.filter(pl.len().over("user") >= _FEWEST_ITEMS).sort("user", maintain_order=True)
    if frame.is_empty():
        raise UserError(f"{path}: no user with {_FEWEST_ITEMS} interactions or more")
    names, item = np.unique(frame["item"].to_numpy(), return_inverse=True)
    row = np.arange(len(frame))
    position = positions(frame["user"].to_numpy())
    first = row - position
    left = frame.select(pl.len().over("user")).to_series().to_numpy() - 1 - position
    windows = pl.DataFrame({"row": row, "split": np.select([left == 0, left == 1], ["natural", "valid"], "train")})
    train = np.bincount(item[left > 1], minlength=len(names))
    events = frame.select(
        "user", time=pl.lit(datetime(2024, 1, 1)), place=pl.lit(None, pl.String),
        behavior=pl.col("item").cast(pl.String),
    )
    vocabulary = pl.DataFrame({"behavior": names.astype(str), "share": train / train.sum()})
    # a user's first interaction has no history, so it is no target
    sequences = Sequences(events, windows.filter(row > first), vocabulary, length)
    return Log(sequences, item, first, row[left == 1], row[left == 0])


class ManyItems(SASRec):
    """SASRec whose loss needs no scores of all positions at once."""

    def loss(self, batch: Batch, generator: torch.Generator) -> torch.Tensor:
        known = batch.label != NO_LABEL
        hidden, label = self.encoder(self.embedder(batch), batch.padding)[known], batch.label[known]
        items = self.embedder.behaviors.weight[: self.embedder.size]
        if self.objective == "ce":
            return item_softmax(hidden, items, label) / len(label)
        shift = torch.randint(1, len(items), label.shape, generator=generator).to(label.device)
        own = (hidden * items[label]).sum(dim=-1)
        other = (hidden * items[(label + shift) % len(items)]).sum(dim=-1)
        return functional.softplus(-own).mean() + functional.softplus(other).mean()


def item_softmax(hidden: torch.Tensor, items: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Sum of the softmax cross-entropies of `label` (N,) by inner products of hidden (N, D) with items (V, D).

    Block by block, each computed again for its gradient: the N × V scores never stand in memory.
    """
    def loss(rows: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(rows @ items.T, label, reduction="sum")

    blocks = zip(hidden.split(_LOSS_ROWS), label.split(_LOSS_ROWS), strict=True)
    return sum(checkpoint(loss, *block, use_reentrant=False) for block in blocks)


@torch.inference_mode()
def ranks(model: SASRec, log: Log, rows: np.ndarray) -> np.ndarray:
    """Ranks `(N,)`, 1 is the best, of the items at `rows` among those that their users did not have before.

    Ties count against the item, and one that its user did have before is the last of all.
    """
    model.eval()
    found = []
    for start in range(0, len(rows), _USERS_AT_ONCE):
        some = rows[start : start + _USERS_AT_ONCE]
        batch = log.sequences.windows(some).to(device())
        scores = model.embedder.scores(model.encoder(model.embedder(batch), batch.padding)[:, -1])
        had = some - log.first[some]
        of = np.repeat(np.arange(len(some)), had)
        seen = log.item[np.repeat(some - np.cumsum(had), had) + np.arange(had.sum())]
        scores[torch.from_numpy(of).to(device()), torch.from_numpy(seen).to(device())] = float("-inf")
        own = scores.gather(1, torch.from_numpy(log.item[some, None]).to(device()))
        found.append((scores >= own).sum(dim=1).cpu().numpy())
    return np.concatenate(found)


def hit_rate_and_ndcg(rank: np.ndarray) -> tuple[float, float]:
    """HR@10 and NDCG@10 of ranks `(N,)`, one wanted item each."""
    hit = rank <= _CUTOFF
    return float(hit.mean()), float(np.where(hit, 1 / np.log2(rank + 1), 0).mean())


def fit(log: Log, objective: Objective, epochs: int, seed: int) -> tuple[ManyItems, int]:
    """The model at its best epoch by validation NDCG@10, and that epoch's number, 1 and up."""
    torch.manual_seed(seed)
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    model = ManyItems(log.sequences, SETTINGS, "id", objective).to(device())
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    valid = np.sort(rng.permutation(log.valid)[:VALID_USERS])

    def one_epoch(epoch: int) -> None:
        model.train()
        for batch in log.sequences.epoch(BATCH, rng):
            loss = model.loss(batch.to(device()), generator)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    return model, train(f"SASRec {objective}", model, epochs, PATIENCE, one_epoch,
                        lambda: hit_rate_and_ndcg(ranks(model, log, valid))[1])


def main() -> None:
    parser = parser_of("beauty", __doc__)
    parser.add_argument("--data", type=Path, required=True, help="a line `user item` for each interaction, gzip or not")
    parser.add_argument("--objective", choices=OBJECTIVES, help="one of them only (default: both)")
    parser.add_argument("--epochs", type=at_least_1, default=EPOCHS, help="at most (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and order (default: %(default)s)")
    args = parser.parse_args()
    if not args.data.exists():
        console.print(f"skipped: {args.data} is not there; the file is data/beauty.txt of "
                      "github.com/antklen/sasrec-bert4rec-recsys23")
        return
    log = read_log(args.data)
    console.print(f"{len(log.item):,} interactions of {len(log.test):,} users with {log.sequences.size:,} items")
    for objective in [args.objective] if args.objective else OBJECTIVES:
        model, epoch = fit(log, objective, args.epochs, args.seed)
        found = hit_rate_and_ndcg(ranks(model, log, log.test))
        for name, value, published in zip(("HR@10", "NDCG@10"), found, PUBLISHED[objective], strict=True):
            print(f"{objective} {name}: {value:.4f} at epoch {epoch}, published {published:.4f}")


if __name__ == "__main__":
    run(main)
