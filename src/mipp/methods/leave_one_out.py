"""MIPP without elimination: every unit scored once, on the whole layer."""

from dataclasses import dataclass

from mipp import information
from mipp.methods.method import Question, Scores, ScoringMethod
from mipp.records import FloatArray, Scorer
from mipp.statistics import capture


@dataclass(frozen=True, kw_only=True)
class LeaveOneOut(ScoringMethod):
    """Nats lost without this one unit, with all others present; removes the lowest.

    This is the measure of `mipp.plan`, without its elimination: of two units that can replace each
    other both score low, and both are removed. The scores are nats, so that ``allocation="priced"``
    spreads the budget as MIPP does. With that, or with the ``widths=`` of a plan of MIPP's, only
    the elimination differs.

    Attributes:
        noise: As in `mipp.Gaussian`.
    """

    name = "mipp-leave-one-out"
    summary = "nats lost without the unit, measured once"
    source = "an ablation of mipp: no elimination"
    needs = "data"
    at_init = True
    ranking = "global"
    reads_only = True

    noise: float | str = "fisher"

    def score(self, question: Question) -> Scores:
        """Nats for each unit."""
        estimator = information.Gaussian(noise=self.noise)
        graph = question.graph
        statistics, _ = capture(
            question.model,
            dict(enumerate(graph.consumers)),
            question.batches,
            loss=question.loss if self.noise == "fisher" else None,
            seed=question.seed,
        )
        scores = {}
        for group in graph.groups:
            views = []
            for number in group.consumers:
                consumer, seen = graph.consumers[number], statistics[number]
                weight = question.model.get_parameter(consumer.weight).detach()
                views.append(
                    information.consumer_view(
                        graph, group, consumer, weight, seen.covariance, seen.fisher, question.keep
                    )
                )
            scores[group.index] = self._nats(estimator.scorer(views, group.n_units))
        return scores

    def _nats(self, scorer: Scorer) -> FloatArray:
        return scorer.scores()


@dataclass(frozen=True, kw_only=True)
class Solo(LeaveOneOut):
    """Nats that the unit transfers on its own, with no other present; otherwise `LeaveOneOut`."""

    name = "mipp-solo"
    summary = "nats that the unit transfers on its own, measured once"

    def _nats(self, scorer: Scorer) -> FloatArray:
        return scorer.solo()
