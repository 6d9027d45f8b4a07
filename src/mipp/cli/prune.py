"""``mipp prune``: a smaller model under a budget, and what it costs in accuracy."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from torch import nn

from mipp import information, methods, planning, presets, retrain, selection, surgery
from mipp.cli import arguments as arg
from mipp.cli.datasets import Source, find_source
from mipp.cli.exit_codes import readable_errors
from mipp.cli.model_loading import Wanted, check_fit, check_weights, open_model
from mipp.cli.model_names import Network, find_network
from mipp.cli.output import Output, open_output, versions
from mipp.cli.output_files import check_target, write_text
from mipp.cli.pruning import FINE_TUNING, Task, fine_tuning, run
from mipp.cli.results import Outcome
from mipp.cli.user_imports import find
from mipp.cli.weighing import WeightOutcome, WeightTask, check_unused, run_weights
from mipp.errors import InputError
from mipp.planning.model_outputs import read_outputs
from mipp.report import check_plotly

_PLANNING, _RETRAINING, _OUTPUT = "What goes", "Retraining", "Output"
_DEFAULTS = planning.Options()
_TRAINING = [row.name for row in methods.facts() if row.needs == "training"]


def prune(
    model: arg.ModelName,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget", "-b", rich_help_panel=_PLANNING,
            show_default="as --confidence or --preset say",
            help="What may be left: macs=50%, params=300k, units=20%, latency=50% or 3ms (one "
            "example, measured now), information=99% (of what every consumer takes in), or "
            "several with commas, all met.",
        ),
    ] = None,
    granularity: Annotated[
        Literal["unit", "weight", "2:4", "4:8"],
        typer.Option(
            metavar="WHAT", rich_help_panel=_PLANNING,
            help="What goes: unit (filters, neurons, heads: a smaller model); weight (single "
            "weights: zeros, --budget params= or information=); 2:4 or 4:8 (that many stay of "
            "neighbouring inputs, no budget).",
        ),
    ] = "unit",
    width: arg.Width = None,
    classes: arg.Classes = None,
    weights: arg.Weights = None,
    device: arg.Device = "cpu",
    data: arg.DataName = "digits",
    data_root: arg.DataRoot = None,
    samples: Annotated[
        int | None,
        typer.Option(
            min=1, rich_help_panel="Data", show_default=str(_DEFAULTS.samples),
            help="Training examples at most that activations are measured on.",
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_PLANNING, show_default=_DEFAULTS.method.name,
            help=f"How units are ranked: {', '.join(methods.names())}; `mipp methods` says what "
            f"each one is. Single weights: {', '.join(methods.weight_names())}.",
        ),
    ] = None,
    preset: Annotated[
        Literal["paper"] | None,
        typer.Option(
            metavar="NAME", rich_help_panel=_PLANNING,
            help="Settings to start from; the other options replace single ones. paper: MIPP as "
            "published (learned estimator, one ordered pass, confidence, no refit).",
        ),
    ] = None,
    estimator: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_PLANNING, show_default=_DEFAULTS.estimator.name,
            help=f"How information is measured: {', '.join(information.names())}.",
        ),
    ] = None,
    target: Annotated[
        Literal["activations", "outputs", "labels"] | None,
        typer.Option(
            metavar="WHAT", rich_help_panel=_PLANNING, show_default=_DEFAULTS.target,
            help="What units must tell: activations (what the next layer gives), outputs (of the "
            "model) or labels.",
        ),
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option(
            metavar="LEVEL", rich_help_panel=_PLANNING, show_default="no such rule",
            help="Remove only units of which we are not that sure (0.5 to 0.99) that they transfer "
            "entropy; more go with a higher level.",
        ),
    ] = None,
    next_layer: Annotated[
        Literal["whole", "pruned"] | None,
        typer.Option(
            metavar="HOW", rich_help_panel=_PLANNING, show_default=_DEFAULTS.next_layer,
            help="With --confidence or a budget of information: a layer tells of the whole next "
            "one, or of what is left of it (pruned).",
        ),
    ] = None,
    noise: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_PLANNING, show_default=str(_DEFAULTS.estimator.noise),
            help="What counts as noise in a consumer's output: fisher, or a share of its variance "
            "such as 0.1.",
        ),
    ] = None,
    order: Annotated[
        Literal["greedy", "ordered"] | None,
        typer.Option(
            metavar="HOW", rich_help_panel=_PLANNING, show_default=_DEFAULTS.order,
            help="Elimination: greedy (scored anew after each removal) or ordered (in one pass).",
        ),
    ] = None,
    allocation: Annotated[
        Literal["priced", "global", "tolerance", "uniform", "rows"] | None,
        typer.Option(
            metavar="HOW", rich_help_panel=_PLANNING, show_default="the method's own",
            help="How the budget is spread over the groups: priced (fewest nats per cost saved), "
            "global (fewest nats), tolerance (the same share of nats) or uniform (of units). Of "
            "single weights: priced, global, uniform (layers) or rows (outputs).",
        ),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=_PLANNING, show_default=f"{_DEFAULTS.rounds}, or the method's own",
            help="Prune in so many steps, measuring again after each.",
        ),
    ] = None,
    passes: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=_PLANNING, show_default=str(_DEFAULTS.passes),
            help="Score so often, each time for the outputs that were kept the time before.",
        ),
    ] = None,
    refit: Annotated[
        str | None,
        typer.Option(
            metavar="MODE", rich_help_panel=_PLANNING,
            show_default=_DEFAULTS.refit.mode if _DEFAULTS.refit else "none",
            help="How the weights that stay take over: sequential, closed, norm or none; own is "
            "what the source of --method does.",
        ),
    ] = None,
    no_refit: Annotated[
        bool,
        typer.Option("--no-refit", rich_help_panel=_PLANNING, help="The same as --refit none."),
    ] = False,
    protect: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", rich_help_panel=_PLANNING,
            help="Group or module that keeps all units; * and ? match; can be given several times.",
        ),
    ] = None,
    min_units: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=_PLANNING, show_default=str(_DEFAULTS.min_units),
            help="Units that every group keeps at least; 0 lets whole layers go.",
        ),
    ] = None,
    round_to: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=_PLANNING, show_default=str(_DEFAULTS.round_to),
            help="Groups that lose units keep a multiple of this many.",
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_PLANNING, show_default="4GiB",
            help="That measurements may take; beyond it they are made in several passes.",
        ),
    ] = None,
    outputs: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:NAME", rich_help_panel=_PLANNING, show_default="all",
            help="A function of yours that picks from what the model returns what matters.",
        ),
    ] = None,
    train_epochs: Annotated[
        int | None,
        typer.Option(
            metavar="EPOCHS", min=1, rich_help_panel=_PLANNING,
            show_default="as the network's recipe",
            help=f"Of one training, with methods that train: {', '.join(_TRAINING)}.",
        ),
    ] = None,
    retraining: Annotated[
        int,
        typer.Option(
            "--retrain", metavar="EPOCHS", min=0, rich_help_panel=_RETRAINING,
            help="Epochs of retraining by the network's recipe.",
        ),
    ] = 0,
    head_dims: arg.HeadDims = False,
    residual: arg.Residual = False,
    retrain_lr: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=_RETRAINING, show_default=f"1/{FINE_TUNING} of the recipe's",
            help="Highest learning rate of retraining.",
        ),
    ] = None,
    distill: Annotated[
        float,
        typer.Option(
            metavar="SHARE", min=0, max=1, rich_help_panel=_RETRAINING,
            help="Share of the loss that is the divergence from the unpruned model.",
        ),
    ] = 0.0,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="FILE", rich_help_panel=_OUTPUT,
            help="Where the pruned model goes: a .safetensors file for mipp.load and --weights.",
        ),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", rich_help_panel=_OUTPUT,
            help="Where the plan goes: a .json file for mipp.Plan.from_json, or that of "
            "mipp.WeightPlan.",
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", rich_help_panel=_OUTPUT,
            help="Where a page on the plan goes: an .html file with curves, widths and costs.",
        ),
    ] = None,
    force: arg.Force = False,
    seed: arg.Seed = 0,
    json: arg.Json = False,
    debug: arg.Debug = False,
) -> None:  # fmt: skip
    """Prune a model to a budget and show what is left of it: units, information, cost, accuracy."""
    with readable_errors(debug) as guard:
        _check_says_how_much(granularity, budget, confidence, preset)
        output = open_output(json)
        if no_refit and refit not in (None, "none"):
            raise InputError(f"--refit {refit} and --no-refit were both given; give one of them.")
        if (retrain_lr is not None or distill) and not retraining:
            raise InputError("--retrain-lr and --distill need --retrain EPOCHS.")
        options = _given(
            samples=samples, method=method, estimator=estimator, target=target,
            confidence=confidence, next_layer=next_layer, noise=_number(noise), order=order,
            allocation=allocation, rounds=rounds, passes=passes,
            refit="none" if no_refit else refit, protect=protect, min_units=min_units,
            round_to=round_to, memory=memory, head_dims=head_dims or None,
            residual=residual or None,
            outputs=None if outputs is None else find(outputs, "--outputs"),
        )  # fmt: skip
        read_outputs(options.get("outputs"))
        if preset is not None:
            options = presets.change(presets.paper(), options)
        network = replace(find_network(model), outputs=options.get("outputs"))
        train_by = _training(options, network, train_epochs)
        retrain_by = None
        if retraining:
            retrain_by = fine_tuning(network.recipe, retraining, retrain_lr, distill)
        wanted = None if budget is None else selection.parse_budget(budget)
        task: Task | WeightTask
        if granularity == "unit":
            task = Task(wanted, options, retrain_by, seed, train_by)
        else:
            check_unused(preset=preset)
            task = WeightTask(granularity, wanted, options, retrain_by, seed)
        check_weights(weights)
        check_target(out, "--out", suffix=".safetensors", source=weights, force=force)
        check_target(plan, "--plan", suffix=".json", force=force)
        check_target(report, "--report", suffix=".html", force=force)
        torch.manual_seed(seed)
        source = find_source(data, data_root)
        guard.arguments_read()
        if report is not None:
            check_plotly()
        opened = open_model(network, Wanted(width, classes, weights, device, seed), source)
        check_fit(network, opened, source)
        small, outcome = _done(task, network, opened, source, output)
        if out is not None:
            surgery.save(small, out)
        if plan is not None:
            write_text(plan, outcome.plan.to_json())
        if report is not None:
            outcome.plan.report(report, outcome.measured(data))
        outcome.show(output)
        if weights is None and not network.trained:
            what = "this model has" if train_by is None else "its training began with"
            output.say(f"No --weights were given: {what} random weights.")
        output.say(
            f"pruned model in {out}" if out else "The model was not kept: no --out was given."
        )
        _say_where(output, plan=plan, report=report)
        output.result(
            {
                "model": model,
                "weights": _text(weights),
                "data": data,
                "method": outcome.plan.record.options["method"],
                "budget": budget,
                "granularity": granularity,
            }
            | outcome.content()
            | {
                "out": _text(out),
                "plan": _text(plan),
                "report": _text(report),
                "versions": versions(),
            }
        )


def _say_where(output: Output, **paths: Path | None) -> None:
    for what, path in paths.items():
        if path is not None:
            output.say(f"{what} in {path}")


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _check_says_how_much(granularity: str, *given: object) -> None:
    if granularity in ("unit", "weight") and all(value is None for value in given):
        raise typer.BadParameter(
            "say how much may be left (--budget macs=50%; of single weights --budget params=10%), "
            "or when to stop (--confidence 0.95 or --preset paper).",
            param_hint="--budget",
        )


def _training(
    options: dict[str, Any], network: Network, train_epochs: int | None
) -> retrain.Recipe | None:
    """The recipe of methods that train, None for the others."""
    if options.get("method") in _TRAINING:
        return replace(network.recipe, epochs=train_epochs or network.recipe.epochs)
    if train_epochs is not None:
        raise InputError(
            f"--train-epochs {train_epochs} needs --method {' or '.join(_TRAINING)}, which "
            "train; --retrain EPOCHS is for what comes after pruning."
        )
    return None


def _done(
    task: Task | WeightTask, network: Network, model: nn.Module, source: Source, output: Output
) -> tuple[nn.Module, Outcome | WeightOutcome]:
    if isinstance(task, WeightTask):
        return run_weights(task, network, model, source, output)
    return run(task, network, model, source, output)


def _number(noise: str | None) -> float | str | None:
    try:
        return None if noise is None else float(noise)
    except ValueError:
        return noise


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
