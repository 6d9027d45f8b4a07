"""A small problem that every training test can afford."""

import numpy as np
import pytest
import torch
from torch import nn

from mipp import data


@pytest.fixture
def batches():
    """320 digits in batches of 32, shuffled anew in every epoch."""
    digits = data.load("digits", "train").subset(np.arange(320))
    return data.Batches(digits, 32, shuffle=True, seed=0)


@pytest.fixture
def make_model():
    """A network with BatchNorm, dropout, a frozen bias and tied weights."""

    def make(seed=0):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(128, 16),
            nn.ReLU(),
            nn.Linear(16, 16),
            nn.ReLU(),
            nn.Linear(16, 16),
            nn.ReLU(),
            nn.Linear(16, 10),
        )
        model[10].weight = model[8].weight
        model[6].bias.requires_grad_(False)
        return model

    return make
