"""Random units, the reference that a method has to beat."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mipp.methods.method import Question, Scores, ScoringMethod


@dataclass(frozen=True, kw_only=True)
class Random(ScoringMethod):
    """Uniform random numbers; by default the same share of every group stays."""

    name = "random"
    summary = "random units"
    source = "no paper; a reference"
    needs = "nothing"
    at_init = True
    ranking = "local"
    reads_only = True

    def score(self, question: Question) -> Scores:
        """Numbers between 0 and 1."""
        generator = np.random.default_rng([question.seed, question.round])
        return {group.index: generator.random(group.n_units) for group in question.graph.groups}

    def weight_scores(self, question: Question) -> dict[str, Tensor]:
        """Numbers between 0 and 1 for every entry of every parameter, by name."""
        generator = torch.Generator().manual_seed(question.seed + question.round)
        return {
            name: torch.rand(p.shape, generator=generator, dtype=torch.float64).to(p.device)
            for name, p in question.parameters().items()
        }
