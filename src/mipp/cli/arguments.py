"""Options that several commands have in common, those of `mipp.plan`, and the names in help.

The options of `mipp.plan` are made from the schema, `mipp.options`. The library has the names of
models, data and methods, too, but not without importing torch; a test checks that they are equal.
"""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer
from typer.models import OptionInfo

from mipp.options import Options, WeightOptions, help_of

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


_MODEL, _DATA, PLANNING, _OUTPUT = "Model", "Data", "Pruning", "Output"


@dataclass(frozen=True)
class PlanOption:
    """How the command line takes an option of `mipp.plan`, where the schema does not say it.

    Attributes:
        metavar: what stands for the value in help; None for its type.
        help: in place of the schema's line, where that is about Python.
        more: follows the schema's line.
        default: as help shows it, where the schema's is None or needs torch.
        kind: type in place of the schema's.
        least: the smallest number.
        panel: of the help page; None for the first.
        words: that a shell completes.
    """

    metavar: str | None = None
    help: str = ""
    more: str = ""
    default: str = ""
    kind: type | None = None
    least: int | None = None
    panel: str | None = PLANNING
    words: tuple[str, ...] = ()


PLAN_OPTIONS: Mapping[str, PlanOption] = {
    "method": PlanOption(
        default="mipp",
        help=f"How units are ranked: {', '.join(METHODS)}; `mipp methods` describes each. "
        f"Single weights: {', '.join(WEIGHT_METHODS)}.",
        words=METHODS,
    ),
    "estimator": PlanOption(
        default="gaussian", help=f"How information is measured: {', '.join(ESTIMATORS)}."
    ),
    "target": PlanOption("WHAT"),
    "confidence": PlanOption(
        "LEVEL",
        kind=float,
        default="no such rule",
        help="Keep a unit only if it transfers information with this confidence, from 0.5 to 0.99: "
        "a higher level removes more units.",
    ),
    "next_layer": PlanOption("HOW"),
    "noise": PlanOption(),
    "ridge": PlanOption(more="For single weights only."),
    "order": PlanOption("HOW"),
    "allocation": PlanOption(
        "HOW",
        default="the method's own",
        more="Of single weights: priced, global, uniform (layers) or rows (outputs).",
    ),
    "rounds": PlanOption(default="1, or the method's own"),
    "passes": PlanOption(),
    "refit": PlanOption(
        "MODE",
        default="sequential",
        help="How the remaining weights take over: sequential, closed, norm or none; own is what "
        "the source of --method does.",
    ),
    "protect": PlanOption("NAME", more="Can be given several times."),
    "min_units": PlanOption(),
    "round_to": PlanOption(),
    "memory": PlanOption(kind=str),
    "outputs": PlanOption(
        "MODULE:NAME",
        default="all",
        help="A function of yours that picks from what the model returns what matters.",
    ),
    "resume": PlanOption("FOLDER", default="no state is kept"),
    "samples": PlanOption(least=1, panel=_DATA),
    "head_dims": PlanOption(panel=None),
    "residual": PlanOption(panel=None),
}
"""Fields of `Options` and `WeightOptions`, and ``confidence``, which is short for a ``stop``.

`tests/cli/test_prune.py` has the fields that are not here, and why.
"""


_KINDS: dict[Any, Any] = {
    bool: bool,
    int: int,
    int | None: int,
    float | int: float,
    tuple[str, ...]: list[str],
}
"""Type in the schema -> what the command line reads; text where it is none of these."""


def plan_option(name: str) -> OptionInfo:
    """The option of the command line that the schema has under this name."""
    own = PLAN_OPTIONS[name]
    info: OptionInfo = typer.Option(
        f"--{name.replace('_', '-')}",
        metavar=own.metavar,
        min=own.least,
        rich_help_panel=own.panel,
        show_default=own.default or _default(name),
        help=f"{own.help or _line(name)} {own.more}".rstrip(),
        autocompletion=one_of(*own.words) if own.words else None,
    )
    return info


def with_plan_options(after: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command, in the place of ``**options``, all `PLAN_OPTIONS`; None: not given.

    Args:
        after: name of the parameter that they follow in help.
    """

    def decorated(command: Callable[..., None]) -> Callable[..., None]:
        annotated: Any = Annotated  # what mypy takes for a type may not be made at run time
        own = list(inspect.signature(command).parameters.values())[:-1]
        at = 1 + [parameter.name for parameter in own].index(after)
        made = []
        for name in PLAN_OPTIONS:
            kind = _kind(name)
            annotation = annotated[kind if kind is bool else kind | None, plan_option(name)]
            default = False if kind is bool else None
            parameter = inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
            )
            made.append(parameter)
        named = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own]
        signature = inspect.Signature([*named[:at], *made, *named[at:]])
        command.__signature__ = signature  # type: ignore[attr-defined]
        return command

    return decorated


def _fields(name: str) -> list[Field[Any]]:
    """Those of this name, of plans of units and of single weights."""
    records = (Options.__dataclass_fields__, WeightOptions.__dataclass_fields__)
    return [fields[name] for fields in records if name in fields]


def _kind(name: str) -> Any:
    """The type that the command line reads; text where the schema's is a record or a union."""
    if own := PLAN_OPTIONS[name].kind:
        return own
    types = [field.type for field in _fields(name)]
    if words := dict.fromkeys(word for each in types for word in _choices(each)):
        literal: Any = Literal
        return literal[tuple(words)]
    return _KINDS.get(types[0], str)


def _choices(kind: Any) -> list[str]:
    """The words of all literals in a type."""
    if isinstance(kind, str):
        return []  # the name of a record, or one of several words
    return [
        word
        for part in get_args(kind)
        for word in ([part] if isinstance(part, str) else _choices(part))
    ]


def _default(name: str) -> str | bool:
    """The schema's default as text; False where there is none to show."""
    default = _fields(name)[0].default
    if default in (MISSING, None, False, ()):
        return False
    return f"{default >> 30}GiB" if name == "memory" else str(default)


def _line(name: str) -> str:
    """The schema's line of help without marks of code, and without what None means in Python."""
    record = Options if name in Options.__dataclass_fields__ else WeightOptions
    return re.sub(r"[;.] None\b[^.]*", "", help_of(record, name).replace("`", ""))


ModelName = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME",
        rich_help_panel=_MODEL,
        autocompletion=one_of(*MODELS, *PREFIXES),
        help=f"One of {', '.join(MODELS)}; or torchvision:NAME, timm:NAME, hf:FOLDER (as "
        "save_pretrained wrote it, or the .json of its configuration), or package.module:factory, "
        "a function or class in the current folder or installed that makes a torch.nn.Module.",
    ),
]
Pretrained = Annotated[
    bool,
    typer.Option(
        "--pretrained",
        rich_help_panel=_MODEL,
        help="With the weights that torchvision or timm publishes, which is a download unless it "
        "was made before.",
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
    "A .safetensors file, plain or written by mipp (also of a pruned model); or tensors in a .pt, "
    ".pth, .bin or .ckpt file, which is read without running any code in it."
)
KnownWeights = Annotated[
    Path | None,
    typer.Option(
        "--weights", "-w", metavar="FILE", rich_help_panel=_MODEL,
        show_default="those that the model comes with", help=_WEIGHTS,
    ),
]  # fmt: skip
Weights = Annotated[
    Path | None,
    typer.Option(
        "--weights", "-w", metavar="FILE", rich_help_panel=_MODEL,
        show_default="random, from the seed", help=_WEIGHTS,
    ),
]  # fmt: skip
Device = Annotated[
    str,
    typer.Option(help="Where the model runs, such as cuda or cuda:1.", rich_help_panel=_MODEL),
]
_DATA_NAMES = (
    f"One of {', '.join(DATA)}; images:FOLDER (a folder of images for each class, or train and val "
    "with such folders); text:FILE; jsonl:FILE (objects with a text, and maybe a label, or with a "
    "list of numbers for each input); npz:FILE (an array for each input, and y); or "
    "package.module:function for your own, a function without arguments that returns (training "
    "batches, test batches), each a DataLoader or a list of tensors, pairs (x, y) or dicts. Of "
    "files a fifth is held out for evaluation."
)
DataName = Annotated[
    str | None,
    typer.Option(
        "--data", "-d", metavar="NAME", rich_help_panel=_DATA,
        show_default="digits, for built-in networks", help=_DATA_NAMES,
        autocompletion=one_of(*DATA, *FILES),
    ),
]  # fmt: skip
ShapeData = Annotated[
    str | None,
    typer.Option(
        "--data", "-d", metavar="NAME", rich_help_panel=_DATA,
        help="Take the shape of the inputs from these data; the same names as for prune.",
        autocompletion=one_of(*DATA, *FILES),
    ),
]  # fmt: skip
InputShape = Annotated[
    str | None,
    typer.Option(
        "--input", metavar="SHAPE", rich_help_panel=_DATA, show_default="the model's usual",
        help="Shape of one input, such as 3,224,224; of texts the number of tokens.",
    ),
]  # fmt: skip
Tokenizer = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER", rich_help_panel=_DATA, show_default="that of hf:FOLDER",
        help="Tokenizer for texts, as save_pretrained wrote it.",
    ),
]  # fmt: skip
TaskName = Annotated[
    str | None,
    typer.Option(
        "--task", metavar="NAME", rich_help_panel=_DATA, show_default="guessed",
        autocompletion=one_of(*TASKS),
        help=f"What the model is for, which says how it is measured: {', '.join(TASKS)}.",
    ),
]  # fmt: skip
MetricName = Annotated[
    str | None,
    typer.Option(
        "--metric", metavar="NAME", rich_help_panel=_DATA, show_default="as the task says",
        autocompletion=one_of("accuracy", "perplexity"),
        help="accuracy, perplexity, or package.module:function, a function of yours that takes "
        "the model and the test batches and returns a number.",
    ),
]  # fmt: skip
DataRoot = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        rich_help_panel=_DATA,
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
        rich_help_panel=_OUTPUT,
        help="Print one JSON object as the last line of stdout, and all else to stderr.",
    ),
]
Force = Annotated[
    bool,
    typer.Option("--force", "-f", rich_help_panel=_OUTPUT, help="Replace files that exist."),
]
Debug = Annotated[
    bool, typer.Option("--debug", rich_help_panel=_OUTPUT, help="Show the traceback of an error.")
]
