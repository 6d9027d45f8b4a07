"""``parent``: a trained net itself. The runner adds these; suites do not ask for them."""

from mipp.bench import parents
from mipp.bench.ground import Ground
from mipp.bench.images import train_images
from mipp.bench.kinds.kind import Kind
from mipp.measurements import Accuracies, OwnTraining, Result


def perform(ground: Ground) -> Result:
    """Its accuracy, and what training it took if that was done now."""
    made = parents.parent(ground.item, ground.device)
    if made.seconds is not None:
        ground.seconds["retrain"] = made.seconds
    return ground.measured(
        accuracy=Accuracies(unpruned=ground.accuracy(made.model)),
        balanced_accuracy=Accuracies(unpruned=ground.balanced(made.model)),
        own_training=OwnTraining(epochs=ground.item.net.epochs),
        train_images=len(train_images(ground.item)),
    )


KIND = Kind("parent", "a trained net", lambda _suite, _settings: (), perform)
