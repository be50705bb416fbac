"""The processes of one training run: torchrun starts them, and each finds its place here.

    torchrun --nproc-per-node 2 -m flowpipe train CONFIG --out RUN

Without torchrun there is one process, and nothing here does anything. With `--max-restarts N` it
starts a run whose process was killed again, which then goes on after the last whole epoch; set
TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1, without which torch 2.13 often fails to.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from flowpipe.errors import InvalidArgument, RankLost

# A killed process is noticed at once, by its closed connection. The limit is for one that waits
# while the first extracts or tests, which may take long.
WAIT = timedelta(days=7)


@dataclass(frozen=True)
class Ranks:
    """This process's number among those of a run, and how many there are."""

    rank: int = 0
    world_size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and speaks to people."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until all processes are here."""
        if self.world_size > 1:
            with noticing_loss():
                distributed.barrier()

    def share_of(self, batch_size: int) -> int:
        """Give this process's part of a batch.

        Raises
        ------
        InvalidArgument
            If the batch cannot be divided evenly.
        """
        if batch_size % self.world_size:
            raise InvalidArgument(
                f"batch_size {batch_size} must be a multiple of the {self.world_size} processes; "
                "it is that of all of them together"
            )
        return batch_size // self.world_size

    def total(self, values: Tensor) -> Tensor:
        """Add up a tensor over all processes, in place."""
        if self.world_size > 1:
            with noticing_loss():
                distributed.all_reduce(values)
        return values

    def wrapped(self, model: nn.Module, device: torch.device) -> nn.Module:
        """Give a network whose gradients are the means over all processes."""
        if self.world_size == 1:
            return model
        with noticing_loss():
            return DistributedDataParallel(
                model, device_ids=[device.index] if device.type == "cuda" else None
            )


def join() -> Ranks:
    """Join the processes that torchrun started, once; alone without it."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1 or "RANK" not in os.environ:
        return Ranks()
    if not distributed.is_initialized():
        with_gpu = torch.cuda.is_available()
        if with_gpu:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        with noticing_loss():
            distributed.init_process_group("nccl" if with_gpu else "gloo", timeout=WAIT)
    return Ranks(distributed.get_rank(), distributed.get_world_size())


@contextlib.contextmanager
def noticing_loss() -> Iterator[None]:
    """Say what it means when a process of the run is gone.

    Raises
    ------
    RankLost
    """
    try:
        yield
    except RuntimeError as error:
        lost = distributed.is_available() and isinstance(error, distributed.DistError)
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        if not lost and "gloo" not in told and "NCCL" not in told and "onnection" not in told:
            raise
        raise RankLost(
            f"another process of this run is gone ({told}); start the same command again: "
            "training goes on after the last whole epoch"
        ) from error
