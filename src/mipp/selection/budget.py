"""Budgets: bounds on resources, and what every group must keep."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mipp.checks import check_fields, shown
from mipp.errors import BudgetError, InputError
from mipp.records import Cost

_SUFFIX = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
_RESOURCES = ("macs", "params", "units", "latency")
_MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


@dataclass(frozen=True)
class Budget:
    """Upper bounds on resources, each a share of the whole model or an amount; all must be met.

    Usually written as text, ``"macs=50%,params=300k"``, which `parse_budget` turns into this.

    Attributes:
        bounds: Resource (``macs`` per example, ``params``, ``units``, or ``latency`` in ms) ->
            ``(value, is_share)``.
        information: Share of every consumer's information to keep, 0 to 1, or None.
        widths: In place of both, group name -> number of units that stay. Groups that are absent
            keep all units.
        parts: In place of all, pattern of names -> bound on the units of the groups that match,
            taken together. Groups that match no pattern keep all units.

    Examples:
        >>> from mipp.selection import parse_budget
        >>> parse_budget("macs=50%,params=300k").bounds
        {'macs': (0.5, True), 'params': (300000.0, False)}
    """

    bounds: Mapping[str, tuple[float, bool]]
    information: float | None = None
    widths: Mapping[str, int] | None = None
    parts: "Mapping[str, Budget] | None" = None

    def __post_init__(self) -> None:
        check_fields(self)
        unknown = sorted(set(self.bounds) - set(_RESOURCES))
        if unknown:
            raise BudgetError(
                f"Budget(bounds=...) names {', '.join(unknown)}; expected some of "
                f"{', '.join(_RESOURCES)}, as in Budget({{'macs': (0.5, True)}})."
            )

    def limits(self, full: Cost) -> dict[str, float]:
        """Each bound as an amount, given the cost of the whole model."""
        return {
            name: value * getattr(full, name) if is_share else value
            for name, (value, is_share) in self.bounds.items()
        }

    def __str__(self) -> str:
        units = {"latency": "ms"}
        parts = [
            f"{name}={100 * value:.6g}%" if is_share else f"{name}={value:.6g}{units.get(name, '')}"
            for name, (value, is_share) in self.bounds.items()
        ]
        if self.information is not None:
            parts.append(f"information={100 * self.information:.6g}%")
        if self.widths is not None:
            parts += [f"{name}={width}" for name, width in self.widths.items()]
        if self.parts is not None:
            return "; ".join(f"{pattern}: {part}" for pattern, part in self.parts.items())
        return ",".join(parts)


@dataclass(frozen=True)
class Limits:
    """How narrow each group may become.

    Attributes:
        min_units: Smallest number of units. With 0 a group, and any layer, may lose everything.
        round_to: Numbers of units are multiples of this.
        protected: Indices of groups that keep all their units.
    """

    min_units: int = 1
    round_to: int = 1
    protected: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if self.min_units < 0 or self.round_to < 1:
            raise InputError(
                f"min_units={self.min_units}, round_to={self.round_to}; expected min_units >= 0 "
                "and round_to >= 1."
            )

    def widths(self, group: int, n_units: int) -> list[int]:
        """Allowed numbers of removed units, ascending from 0."""
        if group in self.protected:
            return [0]
        floor = 0 if self.min_units == 0 else max(self.min_units, self.round_to)
        kept = [w for w in range(n_units - 1, floor - 1, -1) if w % self.round_to == 0]
        return [0] + [n_units - w for w in kept]


def parse_budget(text: "str | Mapping[str, str | Budget] | Budget") -> Budget:
    """Reads ``"macs=50%"``, ``"latency=3ms"``, ``"information=99%"``, or several with commas.

    Some groups can have a budget of units of their own: ``{"*.mlp*": "units=50%", "*attention*":
    "units=75%"}``, or the same as text, ``"*.mlp*: units=50%; *attention*: units=75%"``.

    Args:
        text: The budget. A `Budget` is returned as it is.

    Raises:
        BudgetError: The text cannot be read.
    """
    if isinstance(text, Budget):
        return text
    if not isinstance(text, str | Mapping):
        share = isinstance(text, float) and 0 < text <= 1
        meant = f"did you mean budget='macs={100 * text:.6g}%'?" if share else "write 'macs=50%'."
        raise BudgetError(
            f"The budget is {shown(text)}, of type {type(text).__name__}; expected text that names "
            f"a resource (macs, params, units, latency or information) and a share or an amount: "
            f"{meant}"
        )
    if isinstance(text, Mapping):
        return _in_parts(list(text.items()))
    if ":" in text:
        given = [part.rpartition(":") for part in text.split(";") if part.strip()]
        return _in_parts([(name.strip(), bound) for name, _, bound in given])
    return _of_the_whole(text)


def _of_the_whole(text: str) -> Budget:
    bounds: dict[str, tuple[float, bool]] = {}
    information = None
    for part in filter(None, (p.strip() for p in re.split(r"[,;]", text))):
        match = re.fullmatch(
            r"(macs|params|units|latency|information)\s*(?:=|<=)\s*"
            r"((?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?)\s*([kmgt%]?|us|ms|s)",
            part,
            re.IGNORECASE,
        )
        if match is None:
            raise BudgetError(
                f"The budget {part!r} cannot be read. Write a resource (macs, params, units, "
                "latency or information), '=', and a share or an amount: 'macs=50%', "
                "'params=300k', 'latency=3ms', 'information=99%', or several with commas."
            )
        name, suffix = match[1].lower(), match[3].lower()
        if name in bounds or (name == "information" and information is not None):
            raise BudgetError(f"The budget names {name} twice: {text!r}. Give each resource once.")
        value = float(match[2])
        share = suffix == "%"
        if not share and (name == "latency") != (suffix in _MILLISECONDS):
            raise BudgetError(
                f"The amount in {part!r} has the wrong unit: latency is a time, such as "
                "latency=3ms (or us, s), and nothing else is."
            )
        value = value / 100 if share else value * (_SUFFIX | _MILLISECONDS)[suffix]
        if value == math.inf:
            raise BudgetError(f"The amount in {part!r} is not finite. Give a smaller one.")
        if 0 < value < 1 and not share and name in ("macs", "params", "units"):
            raise BudgetError(
                f"{part!r} is less than one of the {name}; expected a share with a percent sign, "
                f"or an amount such as {name}=300: did you mean {name}={100 * value:.6g}%?"
            )
        if share and not 0 < value <= 1:
            raise BudgetError(f"The share in {part!r} must be above 0% and at most 100%.")
        if name == "information":
            if not share and not 0 < value <= 1:
                raise BudgetError(f"{part!r}: information is a share, such as information=99%.")
            information = value
        elif value <= 0:
            raise BudgetError(f"The amount in {part!r} must be above 0.")
        else:
            bounds[name] = (value, share)
    if not bounds and information is None:
        raise BudgetError(
            f"The budget {text!r} names nothing. Write for instance 'macs=50%' or 'params=300k'."
        )
    return Budget(bounds, information)


def _in_parts(given: Sequence[tuple[Any, Any]]) -> Budget:
    parts: dict[str, Budget] = {}
    for pattern, bound in given:
        if not isinstance(pattern, str) or not isinstance(bound, str | Budget):
            raise BudgetError(
                f"The budget of {shown(pattern)} is {shown(bound)}; expected a name or pattern of "
                "groups and the share or number of their units, such as {'*.mlp*': 'units=50%'}."
            )
        part = parse_budget(bound)
        if set(part.bounds) != {"units"} or part.information is not None:
            raise BudgetError(
                f"The budget of {pattern!r} is {str(bound).strip()!r}; a part of the groups takes "
                "units alone, such as units=50%. Other resources are those of the whole model."
            )
        if not pattern or pattern in parts:
            raise BudgetError(
                f"A budget in parts names {pattern!r} twice or not at all: give each pattern once, "
                "as in '*.mlp*: units=50%; *attention*: units=75%'."
            )
        parts[pattern] = part
    if not parts:
        raise BudgetError("The budget in parts is empty. Write {'*.mlp*': 'units=50%'}.")
    return Budget({}, parts=parts)
