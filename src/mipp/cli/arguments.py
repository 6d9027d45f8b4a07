"""Options that several commands have in common, and the names that help lists.

The library has these names, too, but not without importing torch; a test holds them equal.
"""

from pathlib import Path
from typing import Annotated

import typer

from mipp.options import Options, help_of

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

_MODEL, _DATA, _OUTPUT = "Model", "Data", "Output"

ModelName = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME",
        rich_help_panel=_MODEL,
        help=f"One of {', '.join(MODELS)}; or torchvision:NAME, timm:NAME, hf:FOLDER (an "
        "image classifier, or the .json of its configuration), or package.module:factory, a "
        "function or class in the current folder or installed that makes a torch.nn.Module.",
    ),
]
Width = Annotated[
    float | None,
    typer.Option(
        help="Factor on the channels of a built-in network.",
        show_default="1",
        rich_help_panel=_MODEL,
    ),
]
Classes = Annotated[
    int | None,
    typer.Option(
        help="Outputs of the model.",
        show_default="as many as the data have",
        rich_help_panel=_MODEL,
    ),
]
_WEIGHTS = (
    "A .safetensors file, plain or written by mipp, of a pruned model too; or tensors in a .pt, "
    ".pth, .bin or .ckpt file, which is read without running any code in it."
)
Weights = Annotated[
    Path | None,
    typer.Option(
        "--weights", "-w", metavar="FILE", rich_help_panel=_MODEL,
        show_default="random, from the seed", help=_WEIGHTS,
    ),
]  # fmt: skip
SomeWeights = Annotated[
    Path,
    typer.Option("--weights", "-w", metavar="FILE", rich_help_panel=_MODEL, help=_WEIGHTS),
]
Device = Annotated[
    str,
    typer.Option(help="Where the model runs, such as cuda or cuda:1.", rich_help_panel=_MODEL),
]
DataName = Annotated[
    str,
    typer.Option(
        "--data",
        "-d",
        metavar="NAME",
        rich_help_panel=_DATA,
        help=f"One of {', '.join(DATA)}; or package.module:function for your own, a "
        "function without arguments that returns (training batches, test batches), each a "
        "DataLoader or a list of pairs (x, y) of inputs and class indices.",
    ),
]
ShapeData = Annotated[
    str | None,
    typer.Option(
        "--data", "-d", metavar="NAME", rich_help_panel=_DATA,
        help="Take the shape of the inputs from these data; names as for prune.",
    ),
]  # fmt: skip
InputShape = Annotated[
    str | None,
    typer.Option(
        "--input", metavar="SHAPE", rich_help_panel=_DATA, show_default="the model's usual",
        help="Shape of one input, such as 3,224,224.",
    ),
]  # fmt: skip
DataRoot = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        rich_help_panel=_DATA,
        show_default="$MIPP_DATA, or the user's cache",
        help="Folder that has MNIST/raw, cifar-10-batches-bin or cifar-100-binary; what is absent "
        "is fetched.",
    ),
]
HeadDims = Annotated[
    bool,
    typer.Option(
        "--head-dims",
        help=help_of(Options, "head_dims"),
    ),
]
Residual = Annotated[
    bool,
    typer.Option(
        "--residual",
        help="Units of what layer norms and RMS norms go across can go, too. This is not exact.",
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        rich_help_panel=_OUTPUT,
        help="One JSON object as the last line of stdout; everything else goes to stderr.",
    ),
]
Force = Annotated[
    bool,
    typer.Option("--force", "-f", rich_help_panel=_OUTPUT, help="Replace files that are there."),
]
Debug = Annotated[
    bool, typer.Option("--debug", rich_help_panel=_OUTPUT, help="Show the traceback of an error.")
]
