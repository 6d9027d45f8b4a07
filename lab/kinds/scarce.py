"""``scarce``: few training images, or some classes with few; parents learn from no others."""

from collections.abc import Iterator

from pydantic import Field

from lab.images import train_images
from lab.kinds.kind import Kind
from lab.measurements import Item, Result
from lab.suite import Section, Suite
from lab.workbench import Workbench, finished


class Settings(Section):
    """``fractions`` of the training images, ``imbalances`` of commonest to rarest class.

    ``most_epochs``: trainings go on for as many steps as on all images, but for at most so many
    times the epochs.
    """

    fractions: tuple[float, ...] = (1.0,)
    imbalances: tuple[int, ...] = (1,)
    most_epochs: float = Field(default=10.0, ge=1)


def expand(suite: Suite, settings: Settings) -> Iterator[Item]:
    """Every row for each fraction, and for each imbalance of all images."""
    for row in suite.rows():
        for fraction in settings.fractions:
            yield longer(row, fraction, settings.most_epochs) if fraction < 1 else row
        for imbalance in settings.imbalances:
            yield row.model_copy(update={"imbalance": imbalance}) if imbalance > 1 else row


def longer(row: Item, fraction: float, most: float) -> Item:
    """The row with that fraction of the images, and more epochs for it."""
    factor = min(1 / fraction, most)
    net = row.net.model_copy(update={"epochs": round(row.net.epochs * factor)})
    retraining = row.retraining
    if retraining is not None:
        retraining = retraining.model_copy(update={"epochs": round(retraining.epochs * factor)})
    return row.model_copy(update={"net": net, "retraining": retraining, "fraction": fraction})


def perform(workbench: Workbench) -> Result:
    """As ``accuracy``, and with the mean over classes beside it."""
    found = finished(workbench, balanced=True)
    return found.model_copy(update={"train_images": len(train_images(workbench.item))})


KIND = Kind("scarce", "few training images, or few of some classes", expand, perform, Settings)
