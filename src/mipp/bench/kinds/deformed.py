"""``deformed``: accuracy on images that were deformed, for parents that learned from such."""

from collections.abc import Iterator

from mipp.bench.ground import finished
from mipp.bench.kinds.kind import Kind
from mipp.bench.suite import Section, Suite
from mipp.data import deform
from mipp.errors import InputError
from mipp.measurements import Item


class Settings(Section):
    """``deformations``: names from `mipp.data.deform`."""

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
