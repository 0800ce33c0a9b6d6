"""A-Tuning: TRL's SFTTrainer on sequences whose targets are already marked."""

from collections.abc import Sequence

import numpy as np
import polars as pl
import torch
from datasets import Dataset
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl import SFTTrainer

from stages.common.params import Sft
from stages.lm.hidden import hidden_states
from stages.lm.training import WarmupCosine

IGNORED = -100


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
        state = int(np.random.default_rng([self.seed, 5, self.epoch]).integers(2**63))
        self.generator = torch.Generator().manual_seed(state)
        return super().__iter__()


class SequenceTrainer(WarmupCosine, SFTTrainer):
    """SFTTrainer with the paper's schedule and the head applied only where a label is not ignored.

    TRL's own loss has, without Triton, the head on every position; ours is the same number (a test holds that).
    """

    def __init__(self, *args, schedule: Sft, **kwargs):
        self.schedule = schedule
        super().__init__(*args, **kwargs)

    def _get_train_sampler(self, train_dataset=None):
        # groups of a whole optimizer step, whatever the devices and the micro-batch
        return SeededByLength(self.schedule.batch_size, list(self.train_dataset["length"]), self.args.data_seed)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Cross-entropy summed over the labelled tokens, divided by their number in the whole optimizer step."""
        labels = inputs["labels"][:, 1:]
        # padding stands at the end, where a causal model's real tokens never look: no mask, and the faster kernel
        hidden = hidden_states(model, input_ids=inputs["input_ids"])
        asked = labels != IGNORED
        head = self.accelerator.unwrap_model(model).get_output_embeddings()
        logits = head(hidden[:, :-1][asked].to(head.weight.dtype)).float()
        loss = torch.nn.functional.cross_entropy(logits, labels[asked], reduction="sum")
        if num_items_in_batch is None:
            return loss / asked.sum().clamp(min=1)
        return loss / num_items_in_batch * self.accelerator.num_processes


def labelled(sequences: pl.DataFrame, trained: Sequence[int]) -> Dataset:
    """Sequences with labels on the targets whose behaviour is in `trained` (-1: conversations); others are dropped.

    Everything else of a sequence, prompt and history alike, is `IGNORED` by the loss.
    """
    wanted = set(trained)
    rows: dict[str, list] = {"input_ids": [], "labels": [], "length": []}
    columns = ("input_ids", "target_start", "target_end", "target_behavior")
    for ids, starts, ends, behaviors in sequences.select(columns).iter_rows():
        labels = [IGNORED] * len(ids)
        for start, end, behavior in zip(starts, ends, behaviors, strict=True):
            if behavior in wanted:
                labels[start:end] = ids[start:end]
        if any(label != IGNORED for label in labels):
            rows["input_ids"].append(ids)
            rows["labels"].append(labels)
            rows["length"].append(len(ids))
    return Dataset.from_dict(rows)
