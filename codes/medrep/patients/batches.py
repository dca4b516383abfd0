"""Packed batches on their way from the trajectories to a model.

The caller says how a batch is packed; here it is made when its step comes, by each process its share, and put on the device.
"""

from collections.abc import Callable

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, Dataset

INPUT_ARRAYS = ("token", "value", "age", "visit_rank", "record_rank", "time_before", "part", "domain", "boundaries")
"""What the models read of a packed batch."""
SEQUENCE_ARRAYS = ("part_lengths", "numbers")
"""What a read-out reads beside it, a row a sequence."""


class BatchDataset(Dataset):
    """Packed batches of one epoch, made when asked for; each process makes its share of every batch's slices."""

    def __init__(self, batch_slices: list[np.ndarray], make_batch: Callable, rank: int = 0, world: int = 1):
        self.batch_slices, self.make_batch, self.rank, self.world = batch_slices, make_batch, rank, world

    def __len__(self):
        return len(self.batch_slices)

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        batch = self.make_batch(self.batch_slices[step], step, self.rank, self.world)
        return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in batch.items()}


def make_loader(batch_slices: list[np.ndarray], make_batch: Callable, accelerator: Accelerator | None = None) -> DataLoader:
    rank, world = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    on_gpu = accelerator is not None and accelerator.device.type == "cuda"
    # batch_size None: an item is already a batch. Workers only where the device does not need the cores itself. A generator
    # of its own: a loader draws a number when it starts, which would move the model's dropout where a run is continued.
    return DataLoader(
        BatchDataset(batch_slices, make_batch, rank, world),
        batch_size=None,
        num_workers=2 if on_gpu else 0,
        pin_memory=on_gpu,
        generator=torch.Generator(),
    )


def to_tensors(batch: dict, device) -> dict[str, torch.Tensor]:
    return {name: batch[name].to(device, non_blocking=True) for name in INPUT_ARRAYS + SEQUENCE_ARRAYS if name in batch or name in INPUT_ARRAYS}
