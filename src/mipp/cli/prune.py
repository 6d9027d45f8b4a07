"""``mipp prune``: a smaller model under a budget, and what it costs in accuracy."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mipp.cli import arguments as arg
from mipp.cli import names, prune_options
from mipp.cli.output import Output, check_target, open_output, readable_errors, write_text
from mipp.cli.plan_options import with_plan_options
from mipp.options import Granularity

if TYPE_CHECKING:
    from torch import nn

    from mipp import retrain
    from mipp.cli.opening import Subject
    from mipp.cli.outcome import Outcome

_TUNING, _RETRAINING, _OUTPUT = "Tuning", "Retraining", "Output"


@with_plan_options(after="granularity")
def prune(
    model: arg.ModelName,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget", "-b", rich_help_panel=names.PLANNING,
            show_default="as --confidence or --preset say",
            help="What may be left: macs=50%, params=300k, units=20%, latency=50% or 3ms "
            "(measured now), information=99% (of what every consumer takes in), or "
            "several of them, separated by commas.",
        ),
    ] = None,
    latency_runtime: Annotated[
        Literal["torch", "onnxruntime"] | None,
        typer.Option(
            metavar="WHERE", rich_help_panel=names.PLANNING, show_default="torch",
            help="Where --budget latency= is measured: torch, or onnxruntime (on the CPU).",
        ),
    ] = None,
    latency_batch: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, rich_help_panel=names.PLANNING, show_default="1",
            help="Examples in a pass that is measured for --budget latency=.",
        ),
    ] = None,
    granularity: Annotated[
        Granularity,
        typer.Option(
            metavar="WHAT", rich_help_panel=names.PLANNING,
            help="What is removed. Whole units: unit (filters, neurons, heads: a smaller model). "
            "Whole blocks: block (residual blocks, layers of a transformer: a shallower model). "
            "Single weights, which become zero: weight (--budget params= or information=). In a "
            "pattern: 2:4 or 4:8 (2 of 4, or 4 of 8, neighbouring inputs stay; no budget).",
        ),
    ] = "unit",
    width: arg.Width = None,
    classes: arg.Classes = None,
    weights: arg.Weights = None,
    pretrained: arg.Pretrained = False,
    device: arg.Device = "cpu",
    data: arg.DataName = None,
    data_root: arg.DataRoot = None,
    shape: arg.InputShape = None,
    tokenizer: arg.Tokenizer = None,
    task: arg.TaskName = None,
    metric: arg.MetricName = None,
    preset: Annotated[
        Literal["paper"] | None,
        typer.Option(
            metavar="NAME", rich_help_panel=names.PLANNING,
            help="Settings to start from; the other options replace single ones. paper: MIPP as "
            "published (learned estimator, one ordered pass, confidence, no refit).",
        ),
    ] = None,
    no_refit: Annotated[
        bool,
        typer.Option(
            "--no-refit", rich_help_panel=names.PLANNING, help="The same as --refit none."
        ),
    ] = False,
    train_epochs: Annotated[
        int | None,
        typer.Option(
            metavar="EPOCHS", min=1, rich_help_panel=names.PLANNING,
            show_default="as the network's recipe",
            help="Epochs of one training, for methods that train: "
            f"{', '.join(names.TRAINING_METHODS)}.",
        ),
    ] = None,
    tune: Annotated[
        bool,
        typer.Option(
            "--tune", rich_help_panel=_TUNING,
            help="Train the pruned model on the calibration examples to give what the unpruned "
            "one gives. Needs no labels; held-out examples decide when to stop, and whether "
            "anything is changed.",
        ),
    ] = False,
    tune_minutes: Annotated[
        float | None,
        typer.Option(
            metavar="MINUTES", rich_help_panel=_TUNING, show_default="no limit",
            help="Limit of the time of --tune.",
        ),
    ] = None,
    tune_augment: Annotated[
        Literal["flip-shift"] | None,
        typer.Option(
            metavar="HOW", rich_help_panel=_TUNING, show_default="inputs as they are",
            help="Change the inputs of --tune in every pass. flip-shift: images, mirrored and "
            "shifted; not for digits and text, which mirrored images no longer show.",
        ),
    ] = None,
    retraining: Annotated[
        int,
        typer.Option(
            "--retrain", metavar="EPOCHS", min=0, rich_help_panel=_RETRAINING,
            help="Epochs of retraining by the network's recipe.",
        ),
    ] = 0,
    retrain_lr: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=_RETRAINING, show_default=f"1/{names.FINE_TUNING} of the recipe's",
            help="Highest learning rate of retraining.",
        ),
    ] = None,
    distill: Annotated[
        float,
        typer.Option(
            metavar="SHARE", min=0, max=1, rich_help_panel=_RETRAINING,
            help="Share of the loss that is distillation: the divergence from the unpruned model.",
        ),
    ] = 0.0,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="FILE", rich_help_panel=_OUTPUT,
            help="Write the pruned model to this .safetensors file, for mipp.load and --weights.",
        ),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", rich_help_panel=_OUTPUT,
            help="Write the plan to this .json file, for mipp.Plan.from_json, "
            "mipp.BlockPlan.from_json or mipp.WeightPlan.from_json.",
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", rich_help_panel=_OUTPUT,
            help="Write a report of the plan to this .html file: curves, widths and costs.",
        ),
    ] = None,
    force: arg.Force = False,
    seed: arg.Seed = 0,
    json: arg.Json = False,
    debug: arg.Debug = False,
    **options: Any,
) -> None:  # fmt: skip
    """Prune a model to a budget and show what is left of it: units, information, cost, accuracy.

    Of a language model it shows the perplexity, and with --metric whatever you measure.
    """
    import torch

    from mipp import presets, selection
    from mipp.cli.datasets import DataOptions
    from mipp.cli.model_loading import Wanted, check_fit, check_weights, open_model
    from mipp.cli.model_names import find_network
    from mipp.cli.opening import find_subject
    from mipp.cli.pruning import Task, fine_tuning, run
    from mipp.planning.model_outputs import read_outputs
    from mipp.report import check_plotly, current_versions

    with readable_errors(debug) as guard:
        prune_options.check_says_how_much(granularity, budget, options["confidence"], preset)
        output = open_output(json)
        prune_options.check_agree(options["refit"], no_refit, retraining, retrain_lr, distill)
        tune_by = prune_options.tuning_of(tune_minutes, tune_augment, wanted=tune)
        prune_options.check_preset(preset, granularity)
        given = prune_options.read_options(options, no_refit)
        read_outputs(given.get("outputs"))
        if preset is not None:
            given = presets.change(presets.paper(), given)
        found = find_network(model, pretrained=pretrained)
        network = replace(found, outputs=given.get("outputs"))
        train_by = prune_options.training_of(given, network, train_epochs)
        retrain_by = (
            fine_tuning(network.recipe, retraining, retrain_lr, distill) if retraining else None
        )
        wanted = None if budget is None else selection.parse_budget(budget)
        given |= prune_options.latency_of(wanted, latency_runtime, latency_batch, device)
        training = train_by if granularity == "unit" else None
        work = Task(
            wanted, given, retrain_by, seed, training, granularity,
            frontier=report is not None, tune=tune_by,
        )  # fmt: skip
        check_weights(weights)
        check_target(out, "--out", suffix=".safetensors", source=weights, force=force)
        check_target(plan, "--plan", suffix=".json", force=force)
        check_target(report, "--report", suffix=".html", force=force)
        torch.manual_seed(seed)
        reading = DataOptions(data_root, tokenizer, shape, seed)
        subject = find_subject(network, data, reading, task, metric)
        prune_options.check_trainable(subject, retraining, train_by)
        guard.arguments_read()
        if report is not None:
            check_plotly()
        opened = open_model(network, Wanted(width, classes, weights, device, seed), subject.source)
        check_fit(network, opened, subject.source, subject.metric)
        small, outcome = run(work, subject, opened, output, guard)
        files = {"pruned model": out, "plan": plan, "report": report}
        _write(small, outcome, model, subject.source.name, *files.values())
        outcome.show(output)
        _say_what_is_missing(output, subject, weights, train_by)
        outcome.show_totals(output)
        _say_where(output, files)
        output.result(
            {
                "model": model,
                "weights": weights and str(weights),
                "data": subject.source.name,
                "task": subject.task,
                "method": outcome.plan.record.options["method"],
                "budget": budget,
                "granularity": granularity,
            }
            | outcome.content()
            | {
                "out": out and str(out),
                "plan": plan and str(plan),
                "report": report and str(report),
                "versions": current_versions(),
            }
        )


def _write(
    small: "nn.Module", outcome: "Outcome", name: str, data: str,
    out: Path | None, plan: Path | None, report: Path | None,
) -> None:  # fmt: skip
    """Writes the requested files, about the model ``name``, measured on ``data``."""
    from mipp import saving

    if out is not None:
        saving.save(small, out)
    if plan is not None:
        write_text(plan, outcome.plan.to_json())
    if report is not None:
        outcome.plan.report(report, outcome.measured(data), name=name, others=outcome.others)


def _say_what_is_missing(
    output: Output, subject: "Subject", weights: Path | None, train_by: "retrain.Recipe | None"
) -> None:
    if subject.metric is None:
        output.note("nothing was measured; --metric or --task says what to measure")
    if weights is None and not subject.network.trained:
        what = "this model has" if train_by is None else "its training began with"
        output.note(f"no --weights were given: {what} random weights")


def _say_where(output: Output, files: dict[str, Path | None]) -> None:
    if files["pruned model"] is None:
        output.say("the pruned model was not kept: no --out was given")
    for what, path in files.items():
        if path is not None:
            output.say(f"{what} in {path}")
