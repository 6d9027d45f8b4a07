"""Whether one nat told is one nat lost: a group at a time loses half of its units.

    python -m lab run nats    # five nets; the transformer takes most of the time

Its consumers are refitted in closed form, and what that costs is the divergence (KL) of the pruned
net's answers from the original's, per example: on images of the training split (chains of other
clones) that had no part in calibration, and on those that the fit has seen. Beside them stand the
nats that the plan tells. The refit changes the consumers' own weights in the unsliced net, so that
nothing else differs.
"""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import mipp
from lab import wide_nets
from lab.experiment import Experiment, Key, Rows, Settings
from lab.experiments import antiberty, excited
from lab.experiments.nets import LENET, parent
from lab.measurements import NetSpec
from lab.tables import TextTable
from mipp import data, information, statistics
from mipp.records import ChannelGraph, Consumer, Group
from mipp.statistics import Statistics
from mipp.tracing.calls import Call, CallHooks, weight_matrix
from mipp.tracing.guards import measuring

VGG = NetSpec(name="vgg16", data="cifar10", width=0.25, epochs=6)
RESNET = wide_nets.NETS["resnet20"]
PARENTS = {net.label: net for net in (LENET, VGG)}
EXCITED, TRANSFORMER = "squeeze-and-excite/cifar10", "antiberty"
NETS = (LENET.label, VGG.label, RESNET.label, EXCITED, TRANSFORMER)
HELD_OUT = 1024
HALF = "units=50%"
RIDGE = 1e-6
"""Of the refit, as of the estimator."""
ROWS = statistics.CaptureConfig(rows_per_feature=24.0, min_rows=8192)
"""Of the refit, as in `mipp.Refit`."""
KINDS = {"kl": "KL / told", "seen": "KL / told, images of the fit"}
LEAST, MOST = 0.7, 1.4
"""KL over nats told that counts as one."""

Inputs = Tensor | dict[str, Tensor]


def with_images(net: str, name: str, samples: int) -> tuple[nn.Module, list[Inputs], list[Inputs]]:
    """A net, batches to calibrate on, and others of the same split."""
    if net == RESNET.label:
        model, images = wide_nets.parent(RESNET, 0, progress=False), wide_nets.splits(name)[0]
    else:
        model = excited.trained() if net == EXCITED else parent(PARENTS[net], 0).eval()
        images = data.load(name, "train")
    drawn = data.calibration(images, samples + HELD_OUT, 256, 0)
    batches: list[Inputs] = [batch[0] for batch in drawn]
    return model, batches[: samples // 256], batches[samples // 256 :]


def chains() -> tuple[nn.Module, list[Inputs], list[Inputs]]:
    """AntiBERTy with chains to calibrate on, and others."""
    rest, test = antiberty.split(128)
    drawn = random.Random(0).sample(rest, 128)  # noqa: S311 - no secret
    made = antiberty.batches(drawn, 16, seed=1000), antiberty.batches(test, 16, seed=0)
    calibration: list[Inputs] = list(made[0])
    held: list[Inputs] = list(made[1])
    return antiberty.pretrained(), calibration, held


def measure(key: Key, settings: Settings) -> dict[str, Any]:
    """Nats told and KL of every group (of the transformer, of every fifth)."""
    name = key["net"]
    if name == TRANSFORMER:
        model, calibration, held = chains()
    else:
        source = "mnist" if name == LENET.label else "cifar10"
        model, calibration, held = with_images(name, source, settings["samples"])
    graph = mipp.plan(model, calibration[:1], HALF, method="l2").traced
    assert graph is not None
    asked = graph.groups[::5] if name == TRANSFORMER else graph.groups
    read = sorted({c for group in asked for c in group.consumers})
    consumers = {c: graph.consumers[c] for c in read}
    batches = statistics.read_batches(calibration, None)
    config = statistics.CaptureConfig(
        rows_per_feature=settings["rows"], fisher_samples=settings["fisher"]
    )
    seen, _ = statistics.capture(model, consumers, batches, loss="auto", config=config)
    # as many rows as a refit has
    many, _ = statistics.capture(model, consumers, batches, loss=None, config=ROWS)
    images = {"kl": held, "seen": calibration}
    before = {part: [answers(model, batch) for batch in some] for part, some in images.items()}
    found = {}
    for group in asked:
        views = [view(model, graph, group, consumers[c], seen[c]) for c in group.consumers]
        lost = mipp.Gaussian().scorer(views, group.n_units).remove_least(group.n_units // 2)
        told = float(sum(nats.sum() for _, nats in lost))
        keep = np.ones(group.n_units, dtype=bool)
        keep[[unit for unit, _ in lost]] = False
        fits = {
            (c.weight, c.call): fit(model, graph, group, c, many[i], keep)
            for i, c in consumers.items()
            if i in group.consumers
        }
        parts: dict[str, Tensor] = {}
        for part, some in images.items():
            after = [answers(model, batch, fits) for batch in some]
            parts[part] = torch.cat(list(map(divergence, before[part], after)))
        error = float(parts["kl"].std() / math.sqrt(len(parts["kl"])))
        uses = max(graph.consumers[c].uses for c in group.consumers)
        found[group.name] = {
            "told": told,
            "kl": float(parts["kl"].mean()),
            "error": error,
            "seen": float(parts["seen"].mean()),
            "positions": uses,
        }
    return {"groups": found}


def view(
    model: nn.Module, graph: ChannelGraph, group: Group, consumer: Consumer, seen: Statistics
) -> information.ConsumerView:
    """The consumer as an estimator is given it, with its positions as a plan reports of them."""
    weight = model.get_parameter(consumer.weight).detach()
    made = information.consumer_view(
        graph, group, consumer, weight, seen.covariance, seen.fisher, {}
    )
    half = len(made.unit) - int((made.unit >= 0).sum()) / 2
    return replace(made, uses=made.uses * seen.loss_per_nat(half))


def fit(
    model: nn.Module,
    graph: ChannelGraph,
    group: Group,
    consumer: Consumer,
    seen: Statistics,
    keep: np.ndarray,
) -> tuple[Tensor, Tensor]:
    """The consumer's weight without the units that go, by least squares; and its new constant."""
    weight = model.get_parameter(consumer.weight).detach()
    matrix = weight_matrix(consumer.kind, weight).double()
    _, unit = information.features_seen(graph, group, consumer, matrix.shape[1], {})
    gone = torch.from_numpy((unit >= 0) & ~keep[np.maximum(unit, 0)])
    covariance, mean = seen.moment(centred=True).double(), seen.mean.double()
    known = covariance[~gone][:, ~gone]
    scale = known.diagonal()
    known.diagonal().add_(RIDGE * scale + torch.where(scale > 0, 0.0, 1.0))
    told = torch.linalg.solve(known, covariance[~gone][:, gone]).T
    new = torch.zeros_like(matrix)
    new[:, ~gone] = matrix[:, ~gone] + matrix[:, gone] @ told
    constant = matrix @ mean - new @ mean
    if consumer.kind in ("conv_transpose", "matmul"):
        new = new.T
    return new.reshape(weight.shape).to(weight.dtype), constant.to(weight.dtype)


def answers(
    model: nn.Module,
    batch: Inputs,
    fits: Mapping[tuple[str, int], tuple[Tensor, Tensor]] | None = None,
) -> Tensor:
    """Log-probabilities (n, answers, classes) with some weights replaced."""
    fits = fits or {}

    def constant(call: Call, output: Tensor) -> Tensor:
        fitted = fits.get(call.key)
        if fitted is None:
            return output
        space = 0 if call.kind in ("linear", "matmul") else call.weight.dim() - 2
        return output + fitted[1].view(-1, *[1] * space)

    old = {name: model.get_parameter(name).detach().clone() for name, _ in fits}
    with torch.no_grad(), measuring(model), CallHooks(model, after=constant):
        for (name, _), (weight, _) in fits.items():
            model.get_parameter(name).copy_(weight)
        asked = None if isinstance(batch, Tensor) else batch["labels"] != antiberty.IGNORED
        logits = model(batch).unsqueeze(1) if isinstance(batch, Tensor) else model(**batch).logits
        for name, weight in old.items():
            model.get_parameter(name).copy_(weight)
    found: Tensor = logits.double().log_softmax(-1)
    # residues that are not asked for are answered alike
    return found if asked is None else found.masked_fill(~asked.unsqueeze(-1), 0.0)


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL of each example, in nats."""
    return (p.exp() * (p - q)).sum((1, 2))


def tables(rows: Rows) -> Iterator[TextTable | str]:
    """A table for each net, and how many groups are within the bounds."""
    for row in rows:
        groups = row["groups"]
        lines = []
        for name, group in groups.items():
            nats = [f"{group[k]:.3g}" for k in ("told", "kl", "error")]
            told = group["told"]  # 0 where no unit of the group changes the answer
            ratios = [f"{group[k] / told:.2f}" if k in group and told else "-" for k in KINDS]
            lines.append([name, f"{group['positions']:g}", *nats, *ratios])
        header = ["group", "positions", "nats told", "KL", "standard error", *KINDS.values()]
        yield TextTable(row["net"], header, lines)
        for kind, label in KINDS.items():
            if all(kind in group for group in groups.values()):
                told = [group for group in groups.values() if group["told"]]
                yield f"{label}: {within([group[kind] / group['told'] for group in told])}"


def within(ratios: Sequence[float]) -> str:
    """How many are about one."""
    good = sum(LEAST <= ratio <= MOST for ratio in ratios)
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    return f"{good} of {len(ratios)} within {LEAST} to {MOST}; geometric mean {mean:.2f}"


def items(_settings: Settings) -> Iterator[Key]:
    """One for each net."""
    for net in NETS:
        yield {"net": net}


EXPERIMENT = Experiment(
    name="nats",
    title="Whether one nat told is one nat lost",
    items=items,
    measure=measure,
    tables=tables,
    settings={"samples": 5120, "rows": 4.0, "fisher": 512},
    threads=1,
)
