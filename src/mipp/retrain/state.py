"""Seeds of torch's generators in training."""

import numpy as np
import torch


def seed_generators(device: torch.device, seed: int, epoch: int) -> None:
    """Seeds the global generators of the CPU and of ``device``, and of no other device.

    A pair of numbers seeds them: with a sum, epoch 1 of seed 0 would be epoch 0 of seed 1.
    """
    mixed = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0]
    number = int(mixed >> np.uint64(1))  # torch takes signed integers
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(number)
