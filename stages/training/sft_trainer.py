"""SFT on TRL's SFTTrainer; what is overridden of it stands in trainer.py."""

from collections.abc import Iterator
from typing import Any

import torch
from datasets import Dataset
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl import SFTTrainer

from stages.common.draws import stream
from stages.training.adjustment import NO_NODE
from stages.training.filling import filled, with_filler
from stages.training.sequences import IGNORED, Adjustment, collate, summed_loss
from stages.training.settings import Sft
from stages.training.trainer import WarmupCosine


class SeededByLength(LengthGroupedSampler):
    """Batches of like length, in an order that follows from (seed, epoch) alone.

    Transformers draws it from the global generator, which a resumed run finds in another state.
    """

    def __init__(self, batch_size: int, lengths: list[int], seed: int):
        super().__init__(batch_size, lengths=lengths)
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        state = int(stream(self.seed, "sft batches", self.epoch).integers(2**63))
        self.generator = torch.Generator().manual_seed(state)
        return super().__iter__()


class SequenceTrainer(WarmupCosine, SFTTrainer):
    """SFTTrainer on samples as `sequences.labelled` makes them.

    With an `adjustment` the loss is of shifted logits, in training and in validation: the adapter that is kept is
    the best at what was trained for.
    """

    train_dataset: Dataset

    def __init__(self, *args, schedule: Sft, adjustment: Adjustment | None = None, **kwargs):
        self.schedule, self.adjustment = schedule, adjustment
        super().__init__(*args, data_collator=collate, **kwargs)
        self.lengths = list(self.train_dataset["length"])
        self.train_dataset = with_filler(self.train_dataset, _nothing(self.train_dataset))

    def _get_train_sampler(self, train_dataset=None):
        # groups of a whole optimizer step, whatever the devices and the micro-batch
        sampler = SeededByLength(self.schedule.batch_size, self.lengths, self.args.data_seed)
        return filled(sampler, self.schedule.batch_size)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Loss summed over the labelled tokens, divided by their number in the whole optimizer step."""
        devices = self.accelerator.num_processes
        loss, tokens = summed_loss(model, inputs, self.adjustment, share=devices == 1)
        if num_items_in_batch is None:
            return loss / max(1, tokens)
        return loss / num_items_in_batch * devices


def _nothing(samples: Dataset) -> dict[str, Any]:
    """A sequence without a label."""
    size = 2
    values = {"input_ids": samples[0]["input_ids"][:size], "labels": [IGNORED] * size, "length": size,
              "nodes": [NO_NODE] * size}
    return {name: values[name] for name in samples.column_names}
