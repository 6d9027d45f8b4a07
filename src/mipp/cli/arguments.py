"""Options that several commands have in common."""

from pathlib import Path
from typing import Annotated

import typer

from mipp.cli.names import (
    DATA,
    DATA_PANEL,
    FILES,
    MODEL_PANEL,
    MODELS,
    OUTPUT_PANEL,
    PREFIXES,
    TASKS,
    one_of,
)
from mipp.cli.plan_options import plan_option

ModelName = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME",
        rich_help_panel=MODEL_PANEL,
        autocompletion=one_of(*MODELS, *PREFIXES),
        help=f"One of {', '.join(MODELS)}. Or torchvision:NAME, timm:NAME, or hf:FOLDER (as "
        "save_pretrained wrote it, or the .json of its configuration). Or package.module:factory, "
        "a function or class in the current folder or installed that makes a torch.nn.Module.",
    ),
]
Pretrained = Annotated[
    bool,
    typer.Option(
        "--pretrained",
        rich_help_panel=MODEL_PANEL,
        help="With the weights that torchvision or timm publishes, which is a download unless it "
        "was made before.",
    ),
]
Width = Annotated[
    float | None,
    typer.Option(
        help="Factor on the channels of a built-in network.",
        show_default="1",
        rich_help_panel=MODEL_PANEL,
    ),
]
Classes = Annotated[
    int | None,
    typer.Option(
        help="Outputs of the model.",
        show_default="as many as the data have",
        rich_help_panel=MODEL_PANEL,
    ),
]
_WEIGHTS = (
    "A .safetensors file, plain or written by mipp (also of a pruned model). Or tensors in a .pt, "
    ".pth, .bin or .ckpt file, which is read without running any code in it."
)
KnownWeights = Annotated[
    Path | None,
    typer.Option(
        "--weights", "-w", metavar="FILE", rich_help_panel=MODEL_PANEL,
        show_default="those that the model comes with", help=_WEIGHTS,
    ),
]  # fmt: skip
Weights = Annotated[
    Path | None,
    typer.Option(
        "--weights", "-w", metavar="FILE", rich_help_panel=MODEL_PANEL,
        show_default="random, from the seed", help=_WEIGHTS,
    ),
]  # fmt: skip
Device = Annotated[
    str,
    typer.Option(help="Where the model runs, such as cuda or cuda:1.", rich_help_panel=MODEL_PANEL),
]
_DATA_NAMES = (
    f"One of {', '.join(DATA)}. Or images:FOLDER (a folder of images for each class, or train and "
    "val with such folders). Or text:FILE. Or jsonl:FILE (objects with a text, and maybe a label, "
    "or with a list of numbers for each input). Or npz:FILE (an array for each input, and y). Or "
    "package.module:function, a function of yours without arguments that returns (training "
    "batches, test batches). Each is a DataLoader or a list of tensors, pairs (x, y) or dicts. Of "
    "files a fifth is held out for evaluation."
)
DataName = Annotated[
    str | None,
    typer.Option(
        "--data", "-d", metavar="NAME", rich_help_panel=DATA_PANEL,
        show_default="digits, for built-in networks", help=_DATA_NAMES,
        autocompletion=one_of(*DATA, *FILES),
    ),
]  # fmt: skip
ShapeData = Annotated[
    str | None,
    typer.Option(
        "--data", "-d", metavar="NAME", rich_help_panel=DATA_PANEL,
        help="Take the shape of the inputs from these data; the same names as for prune.",
        autocompletion=one_of(*DATA, *FILES),
    ),
]  # fmt: skip
InputShape = Annotated[
    str | None,
    typer.Option(
        "--input", metavar="SHAPE", rich_help_panel=DATA_PANEL, show_default="the model's usual",
        help="Shape of one input, such as 3,224,224; of texts the number of tokens.",
    ),
]  # fmt: skip
Tokenizer = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER", rich_help_panel=DATA_PANEL, show_default="that of hf:FOLDER",
        help="Tokenizer for texts, as save_pretrained wrote it.",
    ),
]  # fmt: skip
TaskName = Annotated[
    str | None,
    typer.Option(
        "--task", metavar="NAME", rich_help_panel=DATA_PANEL, show_default="guessed",
        autocompletion=one_of(*TASKS),
        help=f"What the model is for, which says how it is measured: {', '.join(TASKS)}.",
    ),
]  # fmt: skip
MetricName = Annotated[
    str | None,
    typer.Option(
        "--metric", metavar="NAME", rich_help_panel=DATA_PANEL, show_default="as the task says",
        autocompletion=one_of("accuracy", "perplexity"),
        help="accuracy, perplexity, or package.module:function, a function of yours that takes "
        "the model and the test batches and returns a number.",
    ),
]  # fmt: skip
DataRoot = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        rich_help_panel=DATA_PANEL,
        show_default="$MIPP_DATA, or the user's cache",
        help="Folder of MNIST/raw, cifar-10-batches-bin or cifar-100-binary; missing data are "
        "downloaded.",
    ),
]
HeadDims = Annotated[bool, plan_option("head_dims")]
Residual = Annotated[bool, plan_option("residual")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of all random numbers.")]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        rich_help_panel=OUTPUT_PANEL,
        help="Print one JSON object as the last line of stdout, and all else to stderr.",
    ),
]
Force = Annotated[
    bool,
    typer.Option("--force", "-f", rich_help_panel=OUTPUT_PANEL, help="Replace files that exist."),
]
Debug = Annotated[
    bool,
    typer.Option("--debug", rich_help_panel=OUTPUT_PANEL, help="Show the traceback of an error."),
]
