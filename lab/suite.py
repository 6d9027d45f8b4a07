"""A suite: what is to be measured, as a TOML file says it."""

import re
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lab.measurements import Calibration, Item, MethodSpec, NetSpec, Retraining, Stage
from mipp import retrain

FOLDER = re.compile(r"folder:(?P<name>[^@]+)@(?P<size>\d+)")
"""Data that are a class-per-folder tree: its name in the data folder, and pixels."""


class Section(BaseModel):
    """A table of a suite file: keys that it does not have are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class Net(Section):
    """A built-in network: ``name``, factor on its ``width``, ``data`` set, ``epochs``.

    ``epochs`` of training are the recipe's unless given. ``data``: a name of `mipp.data.names`, or
    ``folder:NAME@SIZE``, the class-per-folder tree NAME in the data folder at SIZE x SIZE pixels.
    """

    name: str
    data: str
    width: float = Field(default=1.0, gt=0)
    epochs: int | None = Field(default=None, ge=1)


class Method(Section):
    """A row of the tables. ``options``: of the method and of `mipp.plan`; ``stages``: where only.

    ``retrain_from``: ``"refit"``, the refitted weights, in place of those that are left.
    """

    name: str
    label: str | None = None
    options: dict[str, Any] = {}
    stages: tuple[Stage, ...] | None = None
    retrain_from: str | None = Field(default=None, pattern="^refit$")

    @property
    def shown(self) -> str:
        """The label, by default the name."""
        return self.label or self.name


class Samples(Section):
    """``samples``: images of the training split that a method may look at."""

    samples: int = Field(default=2560, ge=1)


class Epochs(Section):
    """``epochs`` of retraining, and its highest ``rate`` (the recipe's unless given).

    ``share``, in place of ``rate``: that share of the recipe's, where nets have different ones.
    """

    epochs: int = Field(ge=1)
    rate: float | None = Field(default=None, gt=0)
    share: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _one(self) -> "Epochs":
        if self.rate is not None and self.share is not None:
            raise ValueError("rate and share are both there; expected one of them")
        return self


class Smoke(Section):
    """What ``--smoke`` puts in place of the suite's own; ``methods`` are labels."""

    nets: tuple[Net, ...] | None = None
    stages: tuple[Stage, ...] | None = None
    seeds: tuple[int, ...] | None = None
    budgets: tuple[str, ...] | None = None
    methods: tuple[str, ...] | None = None
    calibration: Samples | None = None
    retraining: dict[Stage, Epochs] | None = None
    fraction: float | None = Field(default=None, gt=0, le=1)
    settings: dict[str, Any] | None = None


class Suite(Section):
    """All of a suite file. See docs/research/lab.md for what each key means and an example."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")
    title: str
    about: str
    kind: str
    nets: tuple[Net, ...] = Field(min_length=1)
    stages: tuple[Stage, ...] = Field(default=("trained",), min_length=1)
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1)
    budgets: tuple[str, ...] = Field(min_length=1)
    methods: tuple[Method, ...] = Field(min_length=1)
    calibration: Samples = Samples()
    retraining: dict[Stage, Epochs] = {}
    fraction: float | None = Field(default=None, gt=0, le=1)
    settings: dict[str, Any] = {}
    smoke: Smoke = Smoke()

    def smaller(self) -> "Suite":
        """The suite with its ``[smoke]`` in place, under a name of its own."""
        given = {n: getattr(self.smoke, n) for n in Smoke.model_fields}
        changes = {name: value for name, value in given.items() if value is not None}
        if "methods" in changes:
            changes["methods"] = tuple(m for m in self.methods if m.shown in changes["methods"])
        if "settings" in changes:
            changes["settings"] = self.settings | changes["settings"]
        return self.model_copy(update=changes | {"name": f"{self.name}-smoke"})

    def rows(self) -> "list[Item]":
        """An item for every seed, net, stage, budget and method, in that order.

        Seed by seed, so that an unfinished run has whole tables; kinds take these, and change or
        multiply them.
        """
        return [
            Item(
                kind=self.kind,
                net=spec(net),
                stage=stage,
                seed=seed,
                method=MethodSpec.model_validate(
                    {
                        "label": method.shown,
                        "name": method.name,
                        "options": method.options,
                        "retrain_from": method.retrain_from,
                    }
                ),
                budget=budget,
                calibration=Calibration(samples=self.calibration.samples),
                retraining=self.retraining_of(stage, net),
                fraction=None if self.fraction == 1 else self.fraction,
            )
            for seed in self.seeds
            for net in self.nets
            for stage in self.stages
            for budget in self.budgets
            for method in self.methods
            if method.stages is None or stage in method.stages
        ]

    def retraining_of(self, stage: Stage, net: Net) -> Retraining | None:
        """How nets of that stage are trained after pruning; None without a section."""
        found = self.retraining.get(stage)
        if found is None:
            return None
        rate = found.rate
        if found.share is not None:
            # as it would be written: 0.2 * 0.05 is a little more than 0.01
            rate = float(f"{found.share * retrain.recipe_for(net.name).peak_lr:.6g}")
        return Retraining(epochs=found.epochs, rate=rate)


def spec(net: Net) -> NetSpec:
    """The net with its epochs settled; they must be there or in its recipe, as the check sees."""
    epochs = retrain.recipe_for(net.name).epochs if net.epochs is None else net.epochs
    return NetSpec(name=net.name, width=net.width, data=net.data, epochs=epochs)
