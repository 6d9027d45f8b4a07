"""What a kind of benchmark is: which items a suite of it has, and how one is measured."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from lab.measurements import Item, Result
from lab.suite import Section, Suite
from lab.workbench import Workbench


class NoSettings(Section):
    """The ``[settings]`` of kinds that have none."""


@dataclass(frozen=True)
class Kind:
    """``settings``: the model of the suite's ``[settings]``; ``about``: one line for the list.

    ``expand(suite, settings)`` gives the items, ``perform(workbench)`` the result of one. An item
    has all that determines its result, and ``perform`` looks at nothing else.
    """

    name: str
    about: str
    expand: Callable[[Suite, Any], Iterable[Item]]
    perform: Callable[[Workbench], Result]
    settings: type[Section] = NoSettings

    def settings_of(self, suite: Suite) -> Section:
        """The suite's ``[settings]``, checked; pydantic's error where they do not fit."""
        # through JSON: strict tuples take its arrays, but no lists
        return self.settings.model_validate_json(json.dumps(suite.settings, default=str))
