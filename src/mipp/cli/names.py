"""The names in help and in the completion of shells, which the library has, too.

It cannot give them without importing torch; a test checks that they are equal.
"""

from collections.abc import Callable

MODEL_PANEL, DATA_PANEL, PLANNING, OUTPUT_PANEL = "Model", "Data", "Pruning", "Output"
"""Panels of the help pages."""

FINE_TUNING = 5
"""Retraining starts from good weights: its peak learning rate is the recipe's divided by this."""

MODELS = (
    "digits_cnn", "mlp", "lenet5", "vgg11", "vgg16", "vgg19", "resnet20", "resnet20b", "resnet56",
    "resnet56b", "resnet18", "resnet34", "resnet50", "resnet50_imagenet",
)  # fmt: skip
DATA = ("digits", "mnist", "cifar10", "cifar100")
METHODS = (
    "mipp", "bnscale", "chip", "dhspg", "flap", "fpgm", "grasp", "hrank", "imp", "itergrasp",
    "itersnip", "l1", "l2", "mipp-leave-one-out", "mipp-solo", "obs", "oto", "prospr", "random",
    "snip", "sosp", "synflow", "taylor", "thinet",
)  # fmt: skip
TRAINING_METHODS = ("dhspg", "imp", "oto")
WEIGHT_METHODS = (
    "mipp", "sparsegpt", "wanda", "grasp", "itergrasp", "itersnip", "l1", "l2", "prospr", "random",
    "snip", "sosp", "synflow",
)  # fmt: skip
ESTIMATORS = ("gaussian", "masked", "mlp")
TASKS = ("image-classification", "text-classification", "causal-lm", "masked-lm", "none")

PREFIXES = ("torchvision:", "timm:", "hf:")
FILES = ("images:", "text:", "jsonl:", "npz:")
"""How the names of other models and of data in files begin."""


def one_of(*names: str) -> Callable[[str], list[str]]:
    """Completes the names in a shell."""
    return lambda incomplete: [name for name in names if name.startswith(incomplete)]
