"""A-Tuning: TRL's SFTTrainer on sequences whose targets are already marked."""

from collections.abc import Sequence
from typing import Any

import polars as pl
import torch
from datasets import Dataset
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl import SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from stages.common.draws import stream
from stages.training.settings import Sft
from stages.model.fused import TargetLoss
from stages.model.likelihood import prefill
from stages.model.reader import Reader
from stages.model.readers import make_reader
from stages.training.adjustment import NO_NODE, TARGETS, LogitAdjustment
from stages.training.loop import WarmupCosine

IGNORED = -100
# Sequences in one forward pass by default: they share one reading of what they begin with, in 8 GB of memory.
MICRO_BATCH = 4


class SeededByLength(LengthGroupedSampler):
    """Batches of like length, in an order that follows from (seed, epoch) alone.

    Transformers draws it from the global generator, which a resumed run finds in another state.
    """

    def __init__(self, batch_size: int, lengths: list[int], seed: int):
        super().__init__(batch_size, lengths=lengths)
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self):
        state = int(stream(self.seed, "sft batches", self.epoch).integers(2**63))
        self.generator = torch.Generator().manual_seed(state)
        return super().__iter__()


class CollatorWithNodes(DataCollatorForLanguageModeling):
    """TRL's collator, which leaves other columns out, and `nodes` (B, S) beside its labels."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super().torch_call(examples)
        batch["nodes"] = torch.full_like(batch["labels"], NO_NODE)
        for row, example in zip(batch["nodes"], examples, strict=True):
            row[: len(example["nodes"])] = torch.tensor(example["nodes"])
        return batch


class SequenceTrainer(WarmupCosine, SFTTrainer):
    """SFTTrainer with the paper's schedule and the head applied only where a label is not ignored.

    TRL's own loss has, without Triton, the head on every position; ours is the same number (a test holds that). With an
    `adjustment` it is the logit-adjusted loss, in training and in validation: the adapter that is kept is the best at
    what was trained for. Its data then have the column `nodes` of `labelled`.
    """

    def __init__(self, *args, schedule: Sft, adjustment: LogitAdjustment | None = None, **kwargs):
        self.schedule, self.adjustment = schedule, adjustment
        super().__init__(*args, **kwargs)
        if adjustment is not None:
            self.data_collator = CollatorWithNodes(**vars(self.data_collator))

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if self.adjustment is not None and "nodes" not in self._signature_columns:
            self._signature_columns.append("nodes")

    def _get_train_sampler(self, train_dataset=None):
        # groups of a whole optimizer step, whatever the devices and the micro-batch
        return SeededByLength(self.schedule.batch_size, list(self.train_dataset["length"]), self.args.data_seed)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Cross-entropy summed over the labelled tokens, divided by their number in the whole optimizer step."""
        ids, labels = inputs["input_ids"], inputs["labels"]
        hidden, places = labelled_states(make_reader(model), ids, labels, share=self.accelerator.num_processes == 1)
        targets = labels.flatten()[places]
        shifts = self.adjustment.at(inputs["nodes"].flatten()[places]) if "nodes" in inputs else None
        head = self.accelerator.unwrap_model(model).get_output_embeddings()
        loss = TargetLoss.apply(hidden.to(head.weight.dtype), head.weight, head.bias, targets, shifts)
        if num_items_in_batch is None:
            return loss / max(1, len(targets))
        return loss / num_items_in_batch * self.accelerator.num_processes


def labelled_states(
    reader: Reader, ids: torch.Tensor, labels: torch.Tensor, share: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states (N, H) before the batch's N labelled tokens, and these tokens' places (N,) in the flattened labels.

    Args:
        ids, labels: (B, S), padded at the end, where a causal model's real tokens never look: no mask is needed.
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


_WORTH_SHARING = 16  # tokens


def labelled(sequences: pl.DataFrame, trained: Sequence[int], adjustment: LogitAdjustment | None = None) -> Dataset:
    """Sequences with labels on the targets whose behaviour is in `trained` (-1: conversations); others are dropped.

    Everything else of a sequence, prompt and history alike, is `IGNORED` by the loss. With an `adjustment` there is a
    column `nodes` too: where in its tree each label stands.

    Raises:
        UserError: a behaviour has other tokens than in the `adjustment`.
    """
    wanted = set(trained)
    rows: dict[str, list] = {"input_ids": [], "labels": [], "length": []}
    if adjustment is not None:
        rows["nodes"] = []
    for ids, starts, ends, behaviors in sequences.select(TARGETS).iter_rows():
        labels, nodes = [IGNORED] * len(ids), [NO_NODE] * len(ids)
        for start, end, behavior in zip(starts, ends, behaviors, strict=True):
            if behavior in wanted:
                labels[start:end] = ids[start:end]
                if adjustment is not None:
                    nodes[start:end] = adjustment.nodes_of(behavior, ids[start:end])
        if any(label != IGNORED for label in labels):
            rows["input_ids"].append(ids)
            rows["labels"].append(labels)
            rows["length"].append(len(ids))
            if adjustment is not None:
                rows["nodes"].append(nodes)
    return Dataset.from_dict(rows)
