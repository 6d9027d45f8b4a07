"""L2 norm of the weights that make a unit (Li et al. 2017, arXiv 1608.08710, with L2 for L1)."""

import numpy as np

from mipp.methods.method import Method, Question, Scores


def _score(question: Question) -> Scores:
    """Root of the summed squares of all weights that make the unit, over tied producers."""
    parameters = dict(question.model.named_parameters())
    scores = {}
    for group in question.graph.groups:
        squares = np.zeros(group.n_units)
        for key in group.producers:
            weight = parameters[key.tensor].detach().double()
            rows = weight.movedim(key.dim, 0).flatten(1).square().sum(1).cpu().numpy()
            axis = question.graph.axes[key]
            mine = axis.group == group.index
            np.add.at(squares, axis.unit[mine], rows[mine])
        scores[group.index] = np.sqrt(squares)
    return scores


def _random(question: Question) -> Scores:
    """Uniform random numbers."""
    generator = np.random.default_rng(question.seed)
    return {group.index: generator.random(group.n_units) for group in question.graph.groups}


L2 = Method(
    "l2", _score, "uniform", "weights", "L2 norm of the incoming weights, equal share of each group"
)
RANDOM = Method("random", _random, "uniform", "weights", "random units, equal share of each group")
