"""``parent``: a trained net itself. The runner adds these; suites do not ask for them."""

from lab import parents
from lab.images import train_images
from lab.kinds.kind import Kind
from lab.measurements import Accuracies, OwnTraining, Result
from lab.workbench import Workbench


def perform(workbench: Workbench) -> Result:
    """Its accuracy, and what training it took if that was done now."""
    made = parents.parent(workbench.item, workbench.device)
    if made.seconds is not None:
        workbench.seconds["retrain"] = made.seconds
    return workbench.measured(
        accuracy=Accuracies(unpruned=workbench.accuracy(made.model)),
        balanced_accuracy=Accuracies(unpruned=workbench.balanced(made.model)),
        own_training=OwnTraining(epochs=workbench.item.net.epochs),
        train_images=len(train_images(workbench.item)),
    )


KIND = Kind("parent", "a trained net", lambda _suite, _settings: (), perform)
