"""Single weights: MIPP beside magnitude, Wanda, SparseGPT, SNIP, GraSP and SynFlow.

    pip install 'torch-mipp[bench,transformers]'
    python benchmarks/weights.py            # LeNet5, VGG11 at a quarter of its width, a transformer
    python benchmarks/weights.py --nets lenet5 --seeds 1    # a part of it
    python benchmarks/weights.py --show     # the table of what is recorded
    python benchmarks/weights.py --large    # one 4096 x 4096 layer: time, memory, nats lost

Trained parents (seeds 0, 1, 2). Sparsity is that of the weights of convolutions and linear layers,
first and last ones too; 2:4 of those whose inputs come in fours. Accuracy is told *at once*, with
the weights that the method's source leaves, and with the *update* that all share (least squares,
layer after layer; it is MIPP's own). *Retrained*: from the method's own weights, zeros held, the
images nets for an epoch (or ``--epochs``) at a fifth of the recipe's rate, the transformer for 25
steps. Seconds are those until the weights are chosen; MIPP's plans for all shares are made from one
measurement, whose seconds are in each of them. The transformer is the pretrained AntiBERTy (see
antiberty.py): of its MLPs alone, and its quality is the accuracy at masked residues.
"""

import argparse
import dataclasses
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import common
import torch
from common import LENET, VGG11, Records, arguments, parent, spread, table, test_batches
from torch import nn

import mipp
from mipp import data, retrain
from mipp.methods import SparseGPT
from mipp.selection.spend_weights import Choice, spend
from mipp.weights import chosen, curves_of
from mipp.weights import row_curves as curves_module
from mipp.weights.regression import Rows, best_weights

SPARSITIES = ("50 %", "80 %", "90 %", "95 %", "2:4")
SLOWER = 5
"""Retraining has the recipe's peak rate over this."""
TRANSFORMER = "antiberty"
NOT_OF_THE_TRANSFORMER = ("mipp, noise 0.1", "snip", "grasp", "synflow")
"""For time; and the last is made for nets with non-negative inputs."""
TRANSFORMER_STEPS = 25
"""Of retraining the transformer, 8 chains each."""

METHODS: dict[str, dict[str, Any]] = {
    "mipp": {},
    "mipp, per layer": {"allocation": "uniform"},
    "mipp, noise 0.1": {"noise": 0.1},
    "magnitude, global": {"method": "l2", "allocation": "global"},
    "magnitude, per layer": {"method": "l2", "allocation": "uniform"},
    "wanda": {"method": "wanda"},
    "sparsegpt": {"method": "sparsegpt"},
    "snip": {"method": "snip"},
    "grasp": {"method": "grasp"},
    "synflow": {"method": "synflow"},
}
GLOBAL = ("magnitude, global",)
"""Rows that a pattern leaves no choice: the pattern says how many weights each output keeps."""


@dataclasses.dataclass(frozen=True, eq=False)
class Net:
    """What a table is made for.

    ``parent(seed)``: the trained net; ``calibration(seed)``: batches with labels; ``quality``: of a
    net, higher is better (a share of right answers here); ``retrain(net, plan, seed)``: in place,
    with the plan's zeros held; None where there is no retraining. ``protect``: layers that stay.
    """

    label: str
    parent: Callable[[int], nn.Module]
    calibration: Callable[[int], Sequence[Any]]
    quality: Callable[[nn.Module], float]
    retrain: Callable[[nn.Module, mipp.WeightPlan[nn.Module], int], None] | None
    protect: tuple[str, ...] = ()


def image_net(net: common.Net, samples: int, epochs: float = 1) -> Net:
    """One of the nets of `common`."""

    def retrained(model: nn.Module, plan: mipp.WeightPlan[nn.Module], seed: int) -> None:
        recipe = net.recipe()
        recipe = dataclasses.replace(recipe, epochs=epochs, peak_lr=recipe.peak_lr / SLOWER)
        batches = common.train_batches(net, recipe, seed + 100)
        retrain.train(model, batches, recipe, step=plan.hold(model), seed=seed, progress=False)

    return Net(
        label=net.label,
        parent=partial(parent, net),
        calibration=lambda seed: data.calibration(data.load(net.data, "train"), samples, 256, seed),
        quality=lambda model: retrain.evaluate(model, test_batches(net)).accuracy,
        retrain=retrained if epochs else None,
    )


def transformer_net() -> Net:
    """AntiBERTy (see antiberty.py and transformer.py), of which only the MLPs can go."""
    import antiberty  # noqa: PLC0415 - needs an extra that the other nets do not
    import transformer  # noqa: PLC0415

    return Net(
        label=TRANSFORMER,
        parent=lambda _seed: transformer.net(),
        calibration=transformer.calibration,
        quality=lambda model: antiberty.quality(model, transformer.test())["accuracy"],
        retrain=lambda model, plan, seed: transformer.train(
            model, seed, steps=TRANSFORMER_STEPS, take_step=plan.hold(model)
        ),
        protect=("*attention*", "cls"),
    )


def asked(method: str, sparsity: str, weights: int, params: int) -> dict[str, Any]:
    """Options of `mipp.plan`. ``weights``, of ``params``, are those that can go."""
    if ":" in sparsity:
        options = {n: v for n, v in METHODS[method].items() if n != "allocation"}
        return options | {"granularity": sparsity}
    share = 1 - float(sparsity.removesuffix("%")) / 100
    most = params - weights + round(share * weights)
    return METHODS[method] | {"granularity": "weight", "budget": f"params={most}"}


@lru_cache(maxsize=1)
def planned(
    net: Net, seed: int, method: str, weights: int, params: int
) -> dict[str, mipp.WeightPlan[nn.Module]]:
    """MIPP's plans for all shares: measured once, and followed once."""
    shares = [sparsity for sparsity in SPARSITIES if ":" not in sparsity]
    given = [asked(method, sparsity, weights, params) for sparsity in shares]
    budgets = [options.pop("budget") for options in given]
    plans = mipp.plans(net.parent(seed), net.calibration(seed), budgets, protect=net.protect,
                       seed=seed, **given[0])  # fmt: skip
    return dict(zip(shares, plans, strict=True))


@lru_cache(maxsize=1)
def unpruned(net: Net, seed: int) -> float:
    """Quality of the parent."""
    return net.quality(net.parent(seed))


def measure(net: Net, seed: int, method: str, sparsity: str) -> dict[str, Any]:
    """One row: quality at once, with the shared update and retrained; sizes and seconds."""
    model, batches = net.parent(seed), net.calibration(seed)
    params = sum(p.numel() for p in model.parameters())
    everything = mipp.plan(
        model, batches[:1], "params=100%", granularity="weight", method="l2", protect=net.protect
    )
    weights = everything.before.weights
    options = asked(method, sparsity, weights, params)
    if "method" not in METHODS[method] and ":" not in sparsity:
        plan = planned(net, seed, method, weights, params)[sparsity]
    else:
        plan = mipp.plan(model, batches, protect=net.protect, seed=seed, **options)
    found: dict[str, Any] = {
        "unpruned": unpruned(net, seed),
        "seconds": round(sum((plan.seconds or {}).values()), 2),
        "left": 1 - (params - plan.after.params) / weights,
        "collapsed": len(plan.collapsed),
        "layers": {row.name: row.weights_after / row.weights_before for row in plan.summary},
    }
    for how, refit in (("own", "own" if "method" in METHODS[method] else True), ("update", True)):
        pruned = plan.apply(refit=refit)
        found[how] = net.quality(pruned)
        if net.retrain is not None and how == "own":
            net.retrain(pruned, plan, seed)
            found[f"{how}, retrained"] = net.quality(pruned)
            found["held"] = all(
                torch.equal(pruned.get_parameter(n)[~mask], torch.zeros(int((~mask).sum())))
                for n, mask in plan.masks.items()
            )
        if "method" not in METHODS[method]:
            found["update"] = found["own"]  # MIPP's own is the shared update
            break
    return found


def todo(
    labels: Sequence[str], seeds: Sequence[int], methods: Sequence[str], sparsities: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Keys of all rows, seed by seed."""
    for seed in seeds:
        for label in labels:
            for method in methods:
                for sparsity in sparsities:
                    left_out = label == TRANSFORMER and method in NOT_OF_THE_TRANSFORMER
                    if not left_out and not (":" in sparsity and method in GLOBAL):
                        yield {"net": label, "seed": seed, "method": method, "sparsity": sparsity}


KINDS = {
    "own": "at once",
    "update": "with the update that all share",
    "own, retrained": "retrained",
}


def show_by_share(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints a table for each net and kind: a row for each method, a column for each share.

    Cells of fewer seeds than others say how many.
    """
    for label in dict.fromkeys(row["net"] for row in rows):
        of_net = [row for row in rows if row["net"] == label]
        most = len({row["seed"] for row in of_net})
        print(f"{label}, unpruned {spread({r['seed']: r['unpruned'] for r in of_net}.values())}")
        for kind, words in KINDS.items():
            lines = []
            for method in METHODS:
                mine = [row for row in of_net if row["method"] == method and kind in row]
                cells = [[r[kind] for r in mine if r["sparsity"] == s] for s in SPARSITIES]
                if mine:
                    lines.append([method] + [
                        spread(cell) + (f" ({len(cell)})" if len(cell) < most else "")
                        if cell else ""
                        for cell in cells
                    ])  # fmt: skip
            if lines:
                print(f"\n{label}, {words}:\n")
                print(table(["", *SPARSITIES], lines))
        print()


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints one table: a row for each net, sparsity and method; mean and deviation over seeds."""
    lines = []
    for label in dict.fromkeys(row["net"] for row in rows):
        for sparsity in dict.fromkeys(row["sparsity"] for row in rows):
            for method in METHODS:
                mine = [
                    row for row in rows
                    if (row["net"], row["sparsity"], row["method"]) == (label, sparsity, method)
                ]  # fmt: skip
                if not mine:
                    continue
                lines.append([
                    label, sparsity, method, str(len(mine)),
                    spread(row["left"] for row in mine),
                    spread(row["unpruned"] for row in mine),
                    *(spread(row[kind] for row in mine if kind in row) for kind in KINDS),
                    spread((row["seconds"] for row in mine), 1.0),
                ])  # fmt: skip
    header = ["net", "zeros", "method", "seeds", "weights left %", "unpruned", *KINDS.values(),
              "seconds"]  # fmt: skip
    print(table(header, lines))


# ---- one large layer


LEFT = (0.5, 0.2, 0.1)
"""Shares of the weights of a large layer that stay."""


def made_up(d: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Second moments of d rectified inputs, of which a few say most; weights of d rows."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(d, d, generator=generator) / d**0.5
    mixing *= torch.arange(1, d + 1).unsqueeze(1) ** -0.5
    x = (torch.randn(4 * d, d, generator=generator) @ mixing).relu()
    x = (x - x.mean(0)) / x.std()
    return x.T @ x / len(x), torch.randn(d, d, generator=generator) / d**0.5


def large(work: str, d: int) -> dict[str, Any]:
    """A d x d layer: seconds of the processor, memory, and nats lost where so much of it stays."""
    moment, weight = made_up(d)
    rows = Rows(moment, weight, 0.1 * ((weight @ moment) * weight).sum(1))
    whole = [torch.ones_like(weight, dtype=torch.bool)]
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    masks, times = [], []
    started = time.process_time()
    if work in ("mipp", "mipp, path"):
        if work == "mipp, path":
            curves_module.EXACT = 0
        curves = curves_of([rows], whole, None)
        first = time.process_time() - started
        choice = Choice(curves.kept.numpy(), curves.nats.numpy())
        precise = Rows(moment.double(), weight.double(), rows.noise.double())
        for share in LEFT:
            started = time.process_time()
            keep = torch.from_numpy(spend({"": choice}, share * d * d, None)[""])
            masks += chosen([precise], whole, curves, keep, None)
            times.append(first + time.process_time() - started)
    elif work == "sparsegpt":
        for share in LEFT:
            started = time.process_time()
            masks.append(SparseGPT(damping=1e-4).prune(weight, moment, share, "uniform")[0])
            times.append(time.process_time() - started)
    else:
        _ = weight @ moment
        times.append(time.process_time() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seconds": times,
        "mib": (peak - held) / 1024,
        "nats": [float(rows.nats(_errors(rows, mask)).sum()) for mask in masks],
    }


def _errors(rows: Rows, mask: torch.Tensor) -> torch.Tensor:
    new = best_weights(rows, mask)
    off = rows.weight - new
    return ((off @ rows.covariance) * off).sum(1)


def show_large(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints times as ratios to one product of two such matrices, of the same run."""
    lines = []
    for d in dict.fromkeys(row["d"] for row in rows):
        mine = {row["work"]: row for row in rows if row["d"] == d}
        if "product" not in mine:
            continue
        for work in LARGE_WORK[1:]:
            for place, share in enumerate(LEFT if work in mine else ()):
                row = mine[work]
                seconds = row["seconds"][place]
                ratio = seconds / mine["product"]["seconds"][0]
                lines.append([f"{d} x {d}", f"{share:.0%}", work, f"{seconds:.1f}", f"{ratio:.0f}",
                              f"{row['mib']:.0f}", f"{row['nats'][place]:.1f}"])  # fmt: skip
    header = ["layer", "left", "work", "CPU seconds", "ratio to one product",
              "peak MiB above start", "nats lost"]  # fmt: skip
    print(table(header, lines))


LARGE_WORK = ("product", "sparsegpt", "mipp, path", "mipp")
"""``mipp`` is what plans do; ``mipp, path`` what they do with layers that are larger still. All are
judged with the best weights on what stays."""


def in_a_process(work: str, d: int) -> dict[str, Any]:
    """The measurement in a process of its own."""
    command = [sys.executable, __file__, "--child", work, str(d)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measures what is missing, then prints the tables."""
    nets = {"lenet5": LENET, "vgg11": VGG11}
    parser: argparse.ArgumentParser = arguments(__doc__ or "", (*nets, TRANSFORMER))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--sparsities", nargs="+", default=list(SPARSITIES), choices=SPARSITIES)
    parser.add_argument("--epochs", type=float, default=1, help="of retraining; 0 for none")
    parser.add_argument("--large", action="store_true", help="one large layer instead")
    parser.add_argument("--d", type=int, default=4096, help="of the large layer")
    parser.add_argument("--child", nargs=2, metavar=("WORK", "D"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.child:
        print(json.dumps(large(options.child[0], int(options.child[1]))))
        return
    records = Records("weights_large" if options.large else "weights")
    if options.large:
        exact = options.d**4 * 2 / 3 <= curves_module.EXACT  # else plans follow the path, too
        works = LARGE_WORK if exact else LARGE_WORK[:-1]
        for work in () if options.show else works:
            key = {"work": work, "d": options.d}
            records.measure(key, partial(in_a_process, work, options.d))
        show_large(records.rows)
        return
    if not options.show:
        chosen_nets = [
            image_net(nets[n], options.samples, options.epochs) if n in nets else transformer_net()
            for n in options.nets
        ]
        made = {net.label: net for net in chosen_nets}
        seeds = range(options.first_seed, options.seeds)
        for key in todo(list(made), seeds, options.methods, options.sparsities):
            work = partial(measure, made[key["net"]], key["seed"], key["method"], key["sparsity"])
            settings = {"samples": options.samples, "epochs": options.epochs}
            records.measure(key | settings, work)
    show(records.rows)
    print()
    show_by_share(records.rows)


if __name__ == "__main__":
    main()
