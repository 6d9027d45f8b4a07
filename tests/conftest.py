"""What every test shares: one thread, and nothing random left from the test before."""

import pytest
import torch

torch.set_num_threads(1)  # the tensors are small, and tests run side by side


@pytest.fixture(autouse=True)
def _fixed_global_seed() -> None:
    """Models built without a seed of their own are the same in every run."""
    torch.manual_seed(0)
