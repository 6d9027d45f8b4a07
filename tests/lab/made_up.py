"""Records in the schema with numbers that are made up, so that reports have something to show.

Every accuracy here is a formula, not a measurement.
"""

import math

from lab.measurements import (
    Accuracies,
    Calibration,
    CostChange,
    Costs,
    Item,
    Left,
    Machine,
    MethodSpec,
    NetSpec,
    OwnTraining,
    Record,
    Result,
    Retraining,
    Seconds,
    Versions,
)

PLAIN = ("mipp", "random", "synflow", "itersnip", "itergrasp", "prospr", "sosp", "thinet", "imp",
         "oto")  # fmt: skip
MANY = tuple(
    [MethodSpec(label=name, name=name) for name in (*PLAIN, "l1", "l2", "fpgm", "bnscale", "taylor",
     "hrank", "chip", "obs", "flap", "snip", "dhspg", "mipp-leave-one-out", "mipp-solo")]
    + [
        MethodSpec(label="mipp, uniform", name="mipp", options={"allocation": "uniform"}),
        MethodSpec(label="random, MIPP's widths", name="random", options={"widths": "mipp"}),
        MethodSpec(label="l2, global", name="l2", options={"allocation": "global"}),
        MethodSpec(label="sosp, l1", name="sosp", options={"aggregation": "l1"}),
        MethodSpec(label="taylor, uniform", name="taylor", options={"allocation": "uniform"}),
        MethodSpec(label="itergrasp, gradient", name="itergrasp", options={"reading": "gradient"}),
        MethodSpec(label="prospr, first order", name="prospr", options={"second_order": False}),
    ]
)  # fmt: skip
FEW = MANY[:4]
LENET = NetSpec(name="lenet5", data="mnist", epochs=5)
LAYERS = {"fc2": 84, "fc1": 120, "conv2": 50, "conv1": 20}
"""Outputs first, as in records."""
UNITS = ("units=50%", "units=30%", "units=20%", "units=10%", "units=5%", "units=1%")
BEFORE = Costs(macs=2.3e6, params=431080, units=274)


def wave(*parts):
    """A number between -1 and 1 that looks random and is not."""
    return math.sin(sum((i + 1) * 7.3 * hash_of(part) for i, part in enumerate(parts)))


def hash_of(part):
    """The same for the same text in every process."""
    return sum((i + 1) * ord(letter) for i, letter in enumerate(str(part))) % 97


def record(kind="accuracy", result=None, suite="made-up", **item):
    """One record; ``result`` has what is not usual."""
    fields = {"net": LENET, "seed": 0, "stage": "trained"} | item
    whole = Item(kind=kind, **fields)
    return Record(
        schema=1, suite=suite, id=whole.id, item=whole,
        result=Result(**({"seconds": Seconds(plan=1.5, total=5.0)} | (result or {}))),
        versions=Versions(mipp="0.1.0", torch="2.13.0+cpu", python="3.11.2"),
        machine=Machine(processor="made-up processor", cores=2, threads=1, memory=8 * 2**30,
                        device="cpu"),
        commit="abc1234", command="python -m lab run made-up",
        finished=f"2026-11-23T10:{whole.seed:02d}:00+00:00",
    )  # fmt: skip


def accuracy_result(method, budget, seed, stage="trained"):
    """Accuracies that fall with what is left, faster for some methods."""
    left = float(budget.split("=")[1].rstrip("%")) / 100
    skill = 1.2 + 0.5 * wave(method.label) + (0.9 if method.name == "mipp" else 0)
    noise = 0.004 * wave(method.label, budget, seed)
    top = 0.991 if stage == "trained" else 0.11
    retrained = max(0.1, 0.985 - 0.35 * (1 - left) ** 9 / skill**2 + noise)
    at_once = max(0.1, 0.98 - 0.9 * (1 - left) ** (2 * skill) + noise)
    shares = {"units": left, "params": left ** (1.6 + 0.3 * wave(method.label, 1)),
              "macs": left ** (1.2 + 0.4 * wave(method.label, 2))}  # fmt: skip
    after = Costs(macs=2.3e6 * shares["macs"], params=int(431080 * shares["params"]), units=14)
    return {
        "accuracy": Accuracies(unpruned=top, at_once=at_once, refit=(at_once + retrained) / 2,
                               retrained=retrained),
        "left": Left(**shares),
        "cost": CostChange(before=BEFORE, after=after),
        "widths": widths(method, left),
        "collapsed": ["fc1"] if left < 0.1 and method.name in ("random", "snip") else [],
        "at_floor": [],
        "seconds": Seconds(plan=2 + wave(method.label), total=9.0),
        "own_training": OwnTraining(epochs=3.0) if method.name == "imp" else None,
    }  # fmt: skip


def widths(method, left):
    """Units left and before, for each layer."""
    return {
        name: (max(1, min(n, round(n * left * (1 + 0.5 * wave(method.label, name))))), n)
        for name, n in LAYERS.items()
    }


def accuracies(
    methods=FEW, stages=("trained", "init"), seeds=3, kind="accuracy", budgets=UNITS, **more
):
    """A whole suite of accuracies."""
    return tuple(
        record(kind, accuracy_result(method, budget, seed, stage), stage=stage, seed=seed,
               method=method, budget=budget, calibration=Calibration(samples=2560),
               retraining=Retraining(epochs=1, rate=0.02), **more)
        for stage in stages for method in methods for budget in budgets for seed in range(seeds)
    )  # fmt: skip


def collapses(methods=FEW, seeds=5):
    """Runs that collapse the likelier the more goes."""
    made = []
    for method in methods:
        for percent in range(5, 100, 5):
            for seed in range(seeds):
                gone = 1 - percent / 100
                falls = gone > 0.75 + 0.2 * wave(method.label) + 0.1 * wave(method.label, seed)
                result = {"left": Left(macs=0.1, params=0.1, units=percent / 100),
                          "collapsed": ["fc1"] if falls else [], "untrainable": falls and seed > 1,
                          "widths": widths(method, percent / 100)}  # fmt: skip
                made.append(record("collapse", result, seed=seed, method=method,
                                   budget=f"units={percent}%"))  # fmt: skip
    return tuple(made)


def costs(methods=FEW):
    """Nets of four sizes."""
    made = []
    for width in (0.25, 0.5, 1.0, 2.0):
        net = NetSpec(name="vgg11", width=width, data="cifar10", epochs=1)
        before = Costs(macs=1.5e8 * width**2, params=int(9.2e6 * width**2), units=int(2752 * width))
        for method in methods:
            for seed in range(3):
                factor = 1.5 + wave(method.label) + 0.05 * wave(method.label, width, seed)
                result = {"cost": CostChange(before=before, after=before),
                          "seconds": Seconds(plan=8 * factor * width**1.5, total=99.0),
                          "peak_memory": int(2e8 * factor * width**2)}  # fmt: skip
                made.append(record("cost", result, net=net, seed=seed, method=method,
                                   budget="macs=50%"))  # fmt: skip
    return tuple(made)


def scarce(methods=FEW):
    """Few images, and few of some classes."""
    made = []
    ways = [{}, {"fraction": 0.01}, {"fraction": 0.05}, {"fraction": 0.2}, {"imbalance": 10},
            {"imbalance": 100}]  # fmt: skip
    for method in methods:
        for way in ways:
            for seed in range(3):
                result = accuracy_result(method, "units=20%", seed)
                loss = 0.1 * (1 - way.get("fraction", 1)) + 0.001 * way.get("imbalance", 0)
                plain = result["accuracy"]
                result["accuracy"] = plain.model_copy(update={"retrained": plain.retrained - loss})
                result["balanced_accuracy"] = plain.model_copy(
                    update={"retrained": plain.retrained - 2 * loss}
                )
                made.append(record("scarce", result, seed=seed, method=method, budget="units=20%",
                                   **way))  # fmt: skip
    return tuple(made)


def ablations():
    """MIPP and what it is without a part of itself, with nats."""
    labels = ("mipp", "mipp, no refit", "mipp, ordered", "mipp, forward", "mipp-solo")
    methods = [
        MethodSpec(label=label, name=label.split(",")[0], options={"part": label})
        for label in labels
    ]
    return tuple(
        one.model_copy(
            update={"result": one.result.model_copy(update={"nats": {
                "fc1": (10.0, 4.0 + wave(one.item.method.label, one.item.budget)),
                "conv1": (6.0, 1.0)}})}
        )
        for one in accuracies(methods, ("trained",), kind="ablation", budgets=UNITS[:2])
    )  # fmt: skip


def scratches():
    """Pruned nets beside nets from new weights."""
    method = MethodSpec(label="mipp", name="mipp")
    few = {"stages": ("trained",), "kind": "scratch", "budgets": UNITS[:2], "seeds": 2}
    made = list(accuracies([method], **few, initial="pruned"))
    for initial in ("plan", "uniform"):
        for training in ("epochs", "compute"):
            made += accuracies([method], **few, initial=initial, training=training)
    return tuple(made)


def parents():
    """The nets before pruning."""
    result = {"accuracy": Accuracies(unpruned=0.991), "seconds": Seconds(total=60.0),
              "cost": CostChange(before=BEFORE, after=BEFORE)}  # fmt: skip
    return tuple(record("parent", result, seed=seed) for seed in range(3))
