"""``deformed``: accuracy on images that were deformed, for parents that learned from such."""

from collections.abc import Iterator

from lab import deform
from lab.kinds.kind import Kind
from lab.measurements import Item
from lab.suite import Section, Suite
from lab.workbench import finished
from mipp.errors import InputError


class Settings(Section):
    """``deformations``: names from `lab.deform`."""

    deformations: tuple[str, ...] = deform.names()


def expand(suite: Suite, settings: Settings) -> Iterator[Item]:
    """Every row for each deformation."""
    unknown = sorted(set(settings.deformations) - set(deform.names()))
    if unknown:
        raise InputError(
            f"settings.deformations has {unknown[0]!r}; expected some of "
            f"{', '.join(deform.names())}."
        )
    for row in suite.rows():
        for name in settings.deformations:
            yield row.model_copy(update={"deformation": name})


KIND = Kind("deformed", "accuracy on deformed images", expand, finished, Settings)
