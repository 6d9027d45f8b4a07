"""Two processes that find each other as those of torchrun do, for trainers that look for that."""

import os
import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tests.integrations import loading  # noqa: F401 - in the processes, too

Work = Callable[[int, Path], Any]


def run_two(work: Work, folder: Path) -> list[dict[str, torch.Tensor]]:
    """Runs ``work(rank, folder)`` in two processes with gloo.

    Args:
        work: a function of a module; writes tensors to ``folder / f"{rank}.safetensors"``.
        folder: to write to.

    Returns:
        The tensors of the two.
    """
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_started, args=(work, port, folder), nprocs=2)
    return [load_file(folder / f"{rank}.safetensors") for rank in (0, 1)]


def _started(rank: int, work: Work, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank),
        WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", GROUP_RANK="0", TORCHELASTIC_RUN_ID="two",
    )  # fmt: skip
    try:
        work(rank, folder)
        torch.distributed.barrier()
    finally:
        torch.distributed.destroy_process_group()
