"""What a model carries about where it comes from: its name and arguments, and the plans applied.

`mipp.save` writes it into the file, so that `mipp.load` and `mipp.inspect_file` can say it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

_SOURCE, _PLANS = "_mipp_source", "_mipp_plans"


@dataclass(frozen=True)
class Source:
    """What builds the full-size model.

    Attributes:
        name: A built-in name, ``torchvision:NAME``, ``timm:NAME``, ``hf:CLASS``, or
            ``package.module:factory`` for code of the user's.
        arguments: Of the function or class, as JSON can hold them. For ``hf:`` the ``config``.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def package(self) -> str:
        """The package that knows the name; empty for built-in names."""
        return self.name.partition(":")[0] if ":" in self.name else ""


@dataclass(frozen=True)
class Applied:
    """A plan that was applied.

    Attributes:
        method: How units, or weights, were chosen.
        budget: As it was requested; None where there was none.
        before: Cost before: ``macs``, ``params``, ``units`` or ``weights``, ...
        after: The same afterwards.
    """

    method: str
    budget: str | None
    before: Mapping[str, float | None]
    after: Mapping[str, float | None]


def note_source(model: nn.Module, source: Source) -> None:
    """Notes on a model what has built it."""
    setattr(model, _SOURCE, source)


def source_of(model: nn.Module) -> Source | None:
    """What has built the model, as far as it was noted; it may have been changed since."""
    return vars(model).get(_SOURCE)


def note_plans(model: nn.Module, plans: tuple[Applied, ...]) -> None:
    """Notes on a model all plans that were applied, one after the other."""
    setattr(model, _PLANS, plans)


def plans_of(model: nn.Module) -> tuple[Applied, ...]:
    """The plans that led to the model, as far as they were noted."""
    found: tuple[Applied, ...] = vars(model).get(_PLANS, ())
    return found
