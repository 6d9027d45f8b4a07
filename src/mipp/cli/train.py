"""``mipp train``: a network from scratch or from weights, by its recipe."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mipp.cli import arguments as arg
from mipp.cli.output import check_target, open_output, readable_errors

_PANEL = "Training"


def train(
    model: arg.ModelName,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", metavar="FILE", rich_help_panel="Output",
            help="Write the trained weights to this .safetensors file.",
        ),
    ],
    width: arg.Width = None,
    classes: arg.Classes = None,
    weights: arg.Weights = None,
    pretrained: arg.Pretrained = False,
    device: arg.Device = "cpu",
    data: arg.DataName = None,
    data_root: arg.DataRoot = None,
    shape: arg.InputShape = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1, rich_help_panel=_PANEL, show_default="the network's recipe",
            help="Number of epochs.",
        ),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(
            "--lr", rich_help_panel=_PANEL, show_default="the network's recipe",
            help="Highest learning rate.",
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1, rich_help_panel=_PANEL, show_default="the network's recipe",
            help="Of built-in data; your own data come in batches.",
        ),
    ] = None,
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"] | None,
        typer.Option(
            rich_help_panel=_PANEL, show_default="the network's recipe",
            help="Of convolutions and matrix products; weights stay float32. auto: bfloat16 where "
            "the device computes it fast.",
        ),
    ] = None,
    augment: Annotated[
        bool | None,
        typer.Option(
            "--augment/--no-augment", rich_help_panel=_PANEL,
            show_default="the network's recipe", help="Mirror and shift images of CIFAR.",
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", rich_help_panel=_PANEL,
            help="Checkpoint, a .safetensors file, written after every epoch; if it exists, "
            "training continues from it.",
        ),
    ] = None,
    force: arg.Force = False,
    seed: arg.Seed = 0,
    json: arg.Json = False,
    debug: arg.Debug = False,
) -> None:  # fmt: skip
    """Train a network and write its weights; with --weights, continue from these.

    Built-in networks have recipes that reach the accuracy of the literature, or near it.
    """
    import torch

    from mipp import retrain, saving
    from mipp.cli.datasets import DataOptions
    from mipp.cli.model_loading import Wanted, check_fit, check_weights, open_model
    from mipp.cli.model_names import find_network
    from mipp.cli.opening import find_subject

    with readable_errors(debug) as guard:
        output = open_output(json)
        torch.manual_seed(seed)
        network = find_network(model, pretrained=pretrained)
        check_weights(weights)
        check_target(out, "--out", suffix=".safetensors", force=force)
        check_target(resume, "--resume", suffix=".safetensors", source=out)
        given: dict[str, Any] = {
            "epochs": epochs, "peak_lr": lr, "batch_size": batch_size, "precision": precision,
            "augment": augment,
        }  # fmt: skip
        recipe = replace(network.recipe, **{n: v for n, v in given.items() if v is not None})
        reading = DataOptions(data_root, shape=shape, seed=seed)
        subject = find_subject(network, data, reading, None, "accuracy")
        subject.check_trainable("mipp train")
        source = subject.source
        guard.arguments_read()
        opened = open_model(network, Wanted(width, classes, weights, device, seed), source)
        check_fit(network, opened, source, subject.metric)
        start = time.perf_counter()
        with output.followed() as progress:
            history = retrain.train(
                network.classifier(opened),
                source.train(recipe.batch_size, seed, recipe.augment),
                recipe,
                checkpoint=resume,
                seed=seed,
                progress=progress,
            )
        seconds = time.perf_counter() - start
        saving.save(opened, out)
        with output.busy("evaluating"):
            found = retrain.evaluate(network.classifier(opened), source.test())
        output.say(
            f"accuracy {100 * found.accuracy:.2f} % of {found.n_samples} test examples after "
            f"{len(history.epochs)} epochs, {seconds:.0f} s"
        )
        output.say(f"weights in {out}")
        output.result(
            {
                "accuracy": found.accuracy,
                "loss": found.loss,
                "n_samples": found.n_samples,
                "train_accuracy": history.last.train.accuracy,
                "train_loss": history.last.train.loss,
                "epochs": len(history.epochs),
                "seconds": seconds,
                "precision": history.numerics and history.numerics.precision,
                "channels_last": history.numerics and history.numerics.channels_last,
                "out": str(out),
                "seed": seed,
            }
        )
