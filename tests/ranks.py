"""How the processes of a test with `torch.distributed` end."""

import os

import torch


def leave() -> None:
    """Ends this process once all ranks are here, without taking anything down.

    gloo aborts a process whose peer is gone while its threads still run, also when a barrier stands
    between the work and `destroy_process_group`. Files have to be written before.
    """
    torch.distributed.barrier()
    os._exit(0)
