"""Whether what an example loses orders units better than the product of means does.

    python -m lab run unit_order    # three nets

Both orders come from the same greedy elimination in the small-loss form, in eight rounds. With the
regression of a unit on those left, its residual ``e_p`` and the regression coefficients ``B`` of
the output on it, a unit costs

    product    1/2 tr(F B Cov(e) B^T)               as mipp does, for Gaussians
    example    1/2 E (sum_p g_p . B e_p)^2          with the sum over positions inside the square

Widths are the same for both. Accuracy on the test split in percent: with the refit alone, and after
80 steps of training from there.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

import mipp
from lab.experiment import Experiment, Key, Rows, Settings
from lab.experiments.nats import VGG
from lab.experiments.nets import LENET, calibration, item_of, parent, test_batches
from lab.images import train_images
from lab.measurements import NetSpec
from lab.parents import recipe_of
from lab.tables import TextTable, spread
from mipp import data, information, retrain, statistics
from mipp.methods.method import Question, Scores, ScoringMethod
from mipp.records import Group
from mipp.statistics.loss import pass_back, settle
from mipp.tracing.calls import Call, CallHooks, input_rows, n_positions, output_rows, weight_matrix
from mipp.tracing.guards import measuring

NETS: dict[str, tuple[NetSpec, str]] = {
    "lenet5": (LENET, "units=20%"),
    "vgg16": (VGG, "units=50%"),
    "resnet20": (NetSpec(name="resnet20", data="cifar10", epochs=4), "units=50%"),
}
ORDERS: tuple[Literal["product", "example"], ...] = ("product", "example")
ROUNDS = 8
EXAMPLES, AT_ONCE = 256, 32
"""Whose gradients are known, and how many go through at a time."""
RIDGE = 1e-6
STEPS, BATCH, RATE = 80, 128, 0.02


@dataclass(frozen=True, kw_only=True)
class Order(ScoringMethod):
    """Units by the round in which an elimination removes them."""

    name = "order"
    summary = "elimination by the product of means, or by example"
    source = "no paper; a comparison"
    needs = "data"
    ranking = "local"
    by: Literal["product", "example"] = "product"

    def score(self, question: Question) -> Scores:
        """Later in the elimination is larger."""
        graph = question.graph
        seen, _ = statistics.capture(
            question.model, dict(enumerate(graph.consumers)), question.batches,
            loss="auto", seed=question.seed,
        )  # fmt: skip
        gradients = weight_gradients(question) if self.by == "example" else {}
        return {group.index: self._of(question, group, seen, gradients) for group in graph.groups}

    def _of(
        self,
        question: Question,
        group: Group,
        seen: dict[int, statistics.Statistics],
        gradients: dict[int, Tensor],
    ) -> np.ndarray:
        sides = [Side(question, group, c, seen[c], gradients.get(c)) for c in group.consumers]
        order = np.zeros(group.n_units)
        left = np.arange(group.n_units)
        per_round = -(-group.n_units // ROUNDS)
        for number in range(ROUNDS):
            scores = sum(side.scores(left) for side in sides)
            rank = np.argsort(scores, kind="stable")[:per_round]
            # ties within a round by its scores
            order[left[rank]] = number + np.arange(len(rank)) / (len(rank) + 1)
            left = np.delete(left, rank)
            for side in sides:
                side.keep(left)
            if not len(left):
                break
        return order


class Side:
    """One consumer of a group during the elimination."""

    def __init__(
        self,
        question: Question,
        group: Group,
        index: int,
        seen: statistics.Statistics,
        gradients: Tensor | None,
    ) -> None:
        consumer = question.graph.consumers[index]
        weight = question.model.get_parameter(consumer.weight).detach()
        self.weight = weight_matrix(consumer.kind, weight).double()
        self.covariance = seen.moment(centred=True).double()
        scale = self.covariance.diagonal()
        self.covariance.diagonal().add_(RIDGE * scale + torch.where(scale > 0, 0.0, 1.0))
        assert seen.fisher is not None
        self.fisher, self.uses = seen.fisher.double(), consumer.uses * seen.design_effect
        _, self.unit = information.features_seen(
            question.graph, group, consumer, self.weight.shape[1], {}
        )
        self.gradients = gradients
        self.keep(np.arange(group.n_units))

    def keep(self, left: np.ndarray) -> None:
        """Precision of what is left, and the regression of the output on it."""
        stays = np.flatnonzero((self.unit < 0) | np.isin(self.unit, left))
        self.columns = torch.from_numpy(stays)
        self.own = torch.from_numpy(self.unit[stays])
        self.precision = torch.linalg.inv(self.covariance[self.columns][:, self.columns])
        self.regression = self.weight @ self.covariance[:, self.columns] @ self.precision

    def scores(self, left: np.ndarray) -> np.ndarray:
        """What each unit that is left costs."""
        maps = torch.zeros_like(self.precision)
        found = np.zeros(len(left))
        for place, unit in enumerate(left):
            mine = self.own == unit
            block = self.precision[mine][:, mine]
            if self.gradients is None:
                b = self.regression[:, mine]
                curvature = b.T @ self.fisher @ b
                found[place] = 0.5 * self.uses * float((torch.linalg.inv(block) * curvature).sum())
            else:
                maps[mine] = torch.linalg.solve(block, self.precision[mine])
        if self.gradients is None:
            return found
        where = torch.from_numpy(np.searchsorted(left, self.own.numpy().clip(0)))
        ours, b = self.own >= 0, self.regression.float()
        total = torch.zeros(len(left))
        for part in self.gradients.split(AT_ONCE):
            felt = (part[:, :, self.columns] @ maps.T.float() * b).sum(1)
            s = torch.zeros(len(part), len(left)).index_add_(1, where[ours], felt[:, ours])
            total += s.square().sum(0)
        return 0.5 * (total / len(self.gradients)).double().numpy()


def weight_gradients(question: Question) -> dict[int, Tensor]:
    """Gradient about the weight of each consumer, of each example: ``sum_p g_p x_p^T``."""
    model, graph = question.model, question.graph
    by_key = {(c.weight, c.call): i for i, c in enumerate(graph.consumers)}
    found: dict[int, list[Tensor]] = {i: [] for i in by_key.values()}
    first = statistics.read_batches([b.args[0] for b in question.batches], EXAMPLES)
    inputs = torch.cat([batch.args[0] for batch in first])
    with measuring(model):
        for number, x in enumerate(inputs.split(AT_ONCE)):
            anchor = torch.zeros((), requires_grad=True)

            def after(call: Call, output: Tensor, anchor: Tensor = anchor) -> Tensor:
                index = by_key.get(call.key)
                if index is None:
                    return output
                output = output + anchor

                def add(gradient: Tensor) -> None:
                    n, every = len(call.input), torch.arange(n_positions(call))
                    rows = input_rows(call, every)
                    rows = (rows - rows.mean(0)).view(n, -1, rows.shape[1])
                    g = output_rows(call, gradient, every).view(n, rows.shape[1], -1)
                    found[index].append(g.mT @ rows)

                output.register_hook(add)
                return output

            with CallHooks(model, after=after):
                output = model(x)
            batch = statistics.Batch((x,))
            chosen, _ = settle("auto", output, None)
            generator = torch.Generator().manual_seed(1_000 * question.seed + number)
            pass_back(chosen, output, batch, generator)
    return {index: torch.cat(parts) for index, parts in found.items()}


def measure(key: Key, settings: Settings) -> dict[str, Any]:
    """Accuracy with the refit, and tuned, of both orders."""
    net, budget = NETS[key["which"]]
    seed = key["seed"]
    model = parent(net, key["parent"])
    batches = calibration(net, settings["samples"], seed)
    found: dict[str, Any] = {}
    kept = []
    for by in ORDERS:
        plan = mipp.plan(model, batches, budget, method=Order(by=by), seed=seed)
        small = plan.apply(refit=mipp.Refit())
        refitted = retrain.evaluate(small, test_batches(net)).accuracy
        tune(net, small, seed)
        tuned = retrain.evaluate(small, test_batches(net)).accuracy
        found[by] = {"refit": refitted, "tuned": tuned}
        kept.append({(name, unit) for name, units in plan.keep.items() for unit in units})
    return found | {"alike": len(kept[0] & kept[1]) / len(kept[0])}


def tune(net: NetSpec, model: torch.nn.Module, seed: int) -> None:
    """A short training from the refitted weights, the same for both."""
    recipe = dataclasses.replace(recipe_of(net), epochs=1, peak_lr=RATE, precision="float32")
    images = train_images(item_of(net, seed))
    drawn = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    part = images.subset(drawn[: STEPS * BATCH].numpy())
    batches = data.Batches(part, BATCH, shuffle=True, augment=recipe.augment, seed=seed)
    retrain.train(model, batches, recipe, seed=seed, progress=False)


def tables(rows: Rows) -> Iterator[TextTable]:
    """A line for each net."""
    lines = []
    for name, (net, budget) in NETS.items():
        mine = [row for row in rows if row["which"] == name]
        if mine:
            cells = [spread(row[by][end] for row in mine) for end in ENDS for by in ORDERS]
            alike = spread((row["alike"] for row in mine), 100.0)
            lines.append([f"{net.label}, {budget}", str(len(mine)), *cells, alike])
    header = ["net", "draws", *(f"{end}, {by}" for end in ENDS for by in ORDERS), "units alike (%)"]
    yield TextTable("accuracy in percent", header, lines)


ENDS = ("refit", "tuned")


def items(settings: Settings) -> Iterator[Key]:
    """Net by net; the parents of the larger nets are one, with several draws."""
    for which in NETS:
        for seed in range(settings["seeds"]):
            yield {"which": which, "seed": seed, "parent": seed if which == "lenet5" else 0}


EXPERIMENT = Experiment(
    name="unit_order",
    title="Units in the order of what an example loses",
    items=items,
    measure=measure,
    tables=tables,
    settings={"seeds": 3, "samples": 2560},
    threads=1,
)
