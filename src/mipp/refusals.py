"""What is not pruned, put together by reason, with what helps."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mipp.records import Refusal

_PLACE = re.compile(r" \((?P<place>[\w.]+ at .*)\)$", re.DOTALL)
"""The op and the source line at the end of a reason."""

_NORMS = (
    "residual=True (--residual) prunes through norms that are layers with a weight; the result is "
    "then not exact"
)
_REMEDIES: tuple[tuple[str, str], ...] = (
    (r"tied into one unit by (layer|rms)_norm", _NORMS),
    (
        r"one number over all channels \(aten\.mean at .*(pow\(2\)|square|\*\* ?2|varian|norm)",
        _NORMS,
    ),
    (
        r"^mipp has no rule for",
        "add a rule, see `The rule` in docs/guides/own-op-or-layer.md of the repository",
    ),
    (
        r"takes channels by their place|length along the channels is a constant",
        "use chunk, or separate layers, in place of split, unbind and slices",
    ),
    (r"protect", "leave it out of protect (--protect)"),
)
"""Pattern of a reason -> what helps, where that is not in the reason itself."""


@dataclass(frozen=True)
class SameReason:
    """Groups or layers that are refused for one reason.

    Attributes:
        reason: why, without the place.
        places: ops with their source lines, where the reason has any, each once.
        remedy: what would help; empty where nothing is known to.
        names: of the groups or layers, in the order of the plan.
        n_units: of all of them together.

    Examples:
        >>> from mipp.records import Refusal
        >>> same = "all 4 channels are tied into one unit by layer_norm (aten.layer_norm at a.py:1)"
        >>> (found,) = by_reason([Refusal("blocks.0.fc", 4, same), Refusal("blocks.1.fc", 4, same)])
        >>> found.listed(), found.n_units
        (['blocks.*.fc (2)'], 8)
    """

    reason: str
    places: tuple[str, ...]
    remedy: str
    names: tuple[str, ...]
    n_units: int

    @property
    def whole_reason(self) -> str:
        """The reason with its first place, and how many others there are."""
        if not self.places:
            return self.reason
        more = len(self.places) - 1
        others = f", and {more} other place{'s' * (more > 1)}" if more else ""
        return f"{self.reason} ({self.places[0]}{others})"

    def listed(self) -> list[str]:
        """The names; those that differ in numbers alone as one pattern, with how many they are."""
        return patterns(self.names)


def by_reason(refused: Iterable[Refusal]) -> tuple[SameReason, ...]:
    """The refusals put together by reason, in the order in which the reasons come first."""
    found: dict[tuple[str, str], list[Refusal]] = {}
    for each in refused:
        found.setdefault((_PLACE.sub("", each.reason), remedy(each.reason)), []).append(each)
    return tuple(
        SameReason(
            reason,
            tuple(dict.fromkeys(m["place"] for each in same if (m := _PLACE.search(each.reason)))),
            helps,
            tuple(dict.fromkeys(each.name for each in same)),
            sum(each.n_units for each in same),
        )
        for (reason, helps), same in found.items()
    )


def remedy(reason: str) -> str:
    """What would help against a refusal; empty where nothing is known to, or the reason says it."""
    return next((words for pattern, words in _REMEDIES if re.search(pattern, reason, re.S)), "")


def patterns(names: Sequence[str]) -> list[str]:
    """Names that differ in numbers alone as one pattern, such as ``layers.*.fc (3)``.

    Names that are numbers, as in an `nn.Sequential`, stay as they are.
    """
    alike: dict[str, list[str]] = {}
    for name in names:
        pattern = re.sub(r"(?<![^.])\d+(?![^.])", "*", name)
        alike.setdefault(pattern if re.search(r"[^.*]", pattern) else name, []).append(name)
    return [
        same[0] if len(same) == 1 else f"{pattern} ({len(same)})" for pattern, same in alike.items()
    ]


def in_lines(refused: Iterable[Refusal], what: str) -> list[str]:
    """A line of plain text for each reason.

    Args:
        refused: the refusals.
        what: units or weights.
    """
    return [
        f"refused: {', '.join(same.listed())} ({same.n_units} {what}): {same.whole_reason}"
        + (f"; what helps: {same.remedy}" if same.remedy else "")
        for same in by_reason(refused)
    ]
