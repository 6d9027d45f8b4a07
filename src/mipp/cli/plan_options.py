"""The options of `mipp.plan` as options of a command, made from the schema, `mipp.options`."""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass
from typing import Annotated, Any, Literal, get_args

import typer
from typer.models import OptionInfo

from mipp.cli.names import DATA_PANEL, ESTIMATORS, METHODS, PLANNING, WEIGHT_METHODS, one_of
from mipp.options import BlockOptions, Options, WeightOptions, help_of


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
    "blocks": PlanOption(
        "NAME",
        help="With --granularity block, names of the modules that are blocks, such as "
        "'encoder.layer.*'. Can be given several times.",
        default="found",
    ),
    "min_units": PlanOption(),
    "round_to": PlanOption(),
    "memory": PlanOption(kind=str),
    "outputs": PlanOption(
        "MODULE:NAME",
        default="all",
        help="A function of yours that picks from what the model returns what matters.",
    ),
    "resume": PlanOption("FOLDER", default="no state is kept"),
    "samples": PlanOption(least=1, panel=DATA_PANEL),
    "score_samples": PlanOption(least=1, panel=DATA_PANEL, more="For blocks only."),
    "head_dims": PlanOption(),
    "residual": PlanOption(),
}
"""Fields of the records of options, and ``confidence``, which is short for a ``stop``.

`tests/cli/test_prune.py` has the fields that are not here, and why.
"""


_RECORDS: dict[type, Mapping[str, Field[Any]]] = {
    record: record.__dataclass_fields__ for record in (Options, WeightOptions, BlockOptions)
}
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
    """Those of this name, of all kinds of plans."""
    return [fields[name] for fields in _RECORDS.values() if name in fields]


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
    record = next(record for record, known in _RECORDS.items() if name in known)
    return re.sub(r"[;.] None\b[^.]*", "", help_of(record, name).replace("`", ""))
