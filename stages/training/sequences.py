"""Token sequences with labels on what is learned of them: how they become batches, and how a model reads these."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import torch
from datasets import Dataset

from stages.model.likelihood import prefill
from stages.model.reader import Reader
from stages.model.readers import make_reader
from stages.training.adjustment import NO_NODE, TARGETS, LogitAdjustment
from stages.training.objectives import completion
from stages.training.prior import PriorAdjustment

Adjustment = LogitAdjustment | PriorAdjustment

IGNORED = -100
# Sequences in one forward pass by default: they share one reading of what they begin with, in 8 GB of memory.
MICRO_BATCH = 4
# what a batch is padded with, by column
_PADDING = {"input_ids": 0, "labels": IGNORED, "nodes": NO_NODE}
_WORTH_SHARING = 16  # tokens


def labelled(sequences: pl.DataFrame, trained: Sequence[int], adjustment: Adjustment | None = None) -> Dataset:
    """Sequences with labels on the targets whose behaviour is in `trained` (-1: conversations); others are dropped.

    Everything else of a sequence, prompt and history alike, is `IGNORED` by the loss. With an `adjustment` there is a
    column `nodes` too: where in its tree each label stands.

    Raises:
        UserError: a behaviour has other tokens than in the `adjustment`.
    """
    wanted = set(trained)
    samples: dict[str, list] = {name: [] for name in ("input_ids", "labels", "length", *["nodes"] * bool(adjustment))}
    for ids, starts, ends, behaviors, rows in sequences.select(*TARGETS, "target_row").iter_rows():
        labels, nodes = [IGNORED] * len(ids), [NO_NODE] * len(ids)
        for start, end, behavior, row in zip(starts, ends, behaviors, rows, strict=True):
            if behavior in wanted:
                labels[start:end] = ids[start:end]
                if adjustment is not None:
                    nodes[start:end] = adjustment.nodes_of(behavior, ids[start:end], row)
        if any(label != IGNORED for label in labels):
            values = {"input_ids": ids, "labels": labels, "length": len(ids), "nodes": nodes}
            for name, column in samples.items():
                column.append(values[name])
    return Dataset.from_dict(samples)


def collate(examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """`input_ids`, `labels` and, where there are any, `nodes` of a batch (B, S), padded at the end."""
    size = max(len(example["input_ids"]) for example in examples)
    return {
        name: torch.tensor([[*example[name], *[filler] * (size - len(example[name]))] for example in examples])
        for name, filler in _PADDING.items() if name in examples[0]
    }


def summed_loss(
    model: torch.nn.Module, batch: Mapping[str, torch.Tensor], adjustment: Adjustment | None = None,
    share: bool = True,
) -> tuple[torch.Tensor, int]:
    """The loss of a batch as `collate` makes it, summed over its labelled tokens; and how many these are."""
    labels = batch["labels"]
    hidden, places = labelled_states(make_reader(model), batch["input_ids"], labels, share)
    targets = labels.flatten()[places]
    shifts = adjustment.at(batch["nodes"].flatten()[places]) if adjustment else None
    head = getattr(model, "module", model).get_output_embeddings()  # of DistributedDataParallel's wrapper, if any
    return completion(hidden, head, targets, shifts), len(targets)


def labelled_states(
    reader: Reader, ids: torch.Tensor, labels: torch.Tensor, share: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states (N, H) before the batch's N labelled tokens, and these tokens' places (N,) in the flattened labels.

    Args:
        ids, labels: (B, S), padded at the end, which a causal model's real tokens never see: no mask is needed.
        share: read what most of the rows begin with once for all of them. Rows that begin otherwise (conversations) are
            read apart.
    """
    members, shared = shared_beginning(ids, labels) if share else (ids.new_zeros(len(ids), dtype=torch.bool), 0)
    every = torch.arange(labels.numel(), device=labels.device).view(labels.shape)
    states, places = [], []
    for rows, start in ((members, shared), (~members, 0)):
        if not rows.any():
            continue
        asked = labels[rows, start + 1 :] != IGNORED
        # nothing behind the last label is asked for
        size = int(asked.any(dim=0).nonzero().max()) + 1 if asked.any() else 1
        past = prefill(reader, ids[rows][0, :start])
        positions = torch.arange(start, start + size, device=ids.device)[None]
        hidden, _ = reader.read(ids[rows, start : start + size], positions, past)
        states.append(hidden[:, : asked.shape[1]][asked[:, :size]])
        places.append(every[rows, start + 1 :][asked])
    return torch.cat(states), torch.cat(places)


def shared_beginning(ids: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Which rows (B,) of a batch begin alike, and with how many tokens, none of them nor the next one labelled."""
    alike = (ids[:, None] == ids[None]).cumprod(dim=-1).sum(dim=-1)
    first = torch.where((labels != IGNORED).any(dim=1), (labels != IGNORED).int().argmax(dim=1), ids.shape[1])
    alike = torch.minimum(alike, (first - 1).clamp(min=0))
    alike = torch.minimum(alike, alike.diagonal()[:, None])
    middle = int(alike.sum(dim=1).argmax())
    members = alike[middle] >= _WORTH_SHARING
    if members.sum() < 2:
        return torch.zeros_like(members), 0
    return members, int(alike[middle][members].min())
