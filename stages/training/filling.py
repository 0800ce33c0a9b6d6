"""The last optimizer step of an epoch, on several devices.

Accelerate gives all devices batches of one size, and takes samples twice where the last ones are too few. Here a sample
of which nothing is learned stands in the places that are missing, so that each counts once, as on one device.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from datasets import Dataset, concatenate_datasets
from torch.utils.data import Sampler

from stages.common import launch


class Filled(Sampler):
    """The samples of another sampler, then as many times `filler` as make the last step a whole one."""

    def __init__(self, sampler: Any, batch_size: int, filler: int):
        self.sampler, self.filler, self.missing = sampler, filler, -len(sampler) % batch_size

    def __len__(self) -> int:
        return len(self.sampler) + self.missing

    def __iter__(self) -> Iterator[int]:
        yield from self.sampler
        yield from [self.filler] * self.missing

    def set_epoch(self, epoch: int) -> None:
        self.sampler.set_epoch(epoch)


def filled(sampler: Any, batch_size: int) -> Any:
    """`sampler`, on several devices filled up with the sample that `with_filler` has put behind its own."""
    return sampler if launch.count() == 1 else Filled(sampler, batch_size, len(sampler))


def with_filler(samples: Dataset, filler: Mapping[str, Any]) -> Dataset:
    """`samples`, on several devices with a sample behind them that is their first with other values."""
    if launch.count() == 1:
        return samples
    return concatenate_datasets([samples, Dataset.from_list([samples[0] | filler], features=samples.features)])
