"""``mipp export``: an ONNX file of a model, pruned or not, and its latency beside PyTorch."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mipp.cli import arguments as arg
from mipp.cli.output import check_target, open_output, readable_errors

if TYPE_CHECKING:
    from torch import nn

    from mipp import statistics


def export(
    model: arg.ModelName,
    onnx: Annotated[
        Path,
        typer.Option(
            "--onnx", metavar="FILE", rich_help_panel="Output", help="Write the ONNX file here."
        ),
    ],
    width: arg.Width = None,
    classes: arg.Classes = None,
    weights: arg.Weights = None,
    pretrained: arg.Pretrained = False,
    data: arg.ShapeData = None,
    data_root: arg.DataRoot = None,
    shape: arg.InputShape = None,
    tokenizer: arg.Tokenizer = None,
    fixed_batch: Annotated[
        bool,
        typer.Option(
            "--fixed-batch", rich_help_panel="Output",
            help="Fix the batch size to that of the data (4 with --input), for models that take no "
            "other.",
        ),
    ] = False,
    dynamic_length: Annotated[
        bool,
        typer.Option(
            "--dynamic-length", rich_help_panel="Output",
            help="Leave the length open, too: the second dimension of tokens, masks and the like.",
        ),
    ] = False,
    force: arg.Force = False,
    seed: arg.Seed = 0,
    json: arg.Json = False,
    debug: arg.Debug = False,
) -> None:  # fmt: skip
    """Write an ONNX file if onnxruntime computes the same numbers, and time it beside PyTorch.

    Weights of a pruned model are read into the full-size model that --model names, which is then
    timed too. Needs the extra onnx: pip install 'torch-mipp[onnx]' (in a clone: pip install -e
    '.[onnx]').
    """
    import torch

    from mipp import statistics
    from mipp.cli import text_tables
    from mipp.cli.datasets import DataOptions, find_source
    from mipp.cli.model_loading import Wanted, check_shape, check_weights, examples, open_model
    from mipp.cli.model_names import find_network
    from mipp.export import export_onnx
    from mipp.surgery import state_shapes

    with readable_errors(debug) as guard:
        output = open_output(json)
        torch.manual_seed(seed)
        network = find_network(model, pretrained=pretrained)
        check_weights(weights)
        check_target(onnx, "--onnx", suffix=".onnx", source=weights, force=force)
        reading = DataOptions(data_root, tokenizer, shape, seed, network.task)
        source = None if data is None else find_source(data, network, reading)
        batches = examples(network, source, shape, seed)
        guard.arguments_read()
        full = open_model(network, Wanted(width, classes, None, "cpu", seed), source)
        opened = full
        if weights is not None:
            opened = open_model(network, Wanted(width, classes, weights, "cpu", seed), source)
        check_shape(network, opened, batches, shape)
        batch = statistics.read_batches(batches, 4)[0]
        with output.busy("exporting"):
            made = export_onnx(
                opened, batch, onnx, dynamic_batch=not fixed_batch, dynamic_length=dynamic_length
            )
        pruned = state_shapes(full) != state_shapes(opened)
        rows = {"model": opened} | ({"unpruned": full} if pruned else {})
        times = _times(rows, batch, onnx, fixed_batch)
        sizes = " and ".join(map(str, made.batch_sizes))
        if weights is None and not network.trained:
            output.note("no --weights were given: this model has random weights")
        output.say(f"{made.path}: {text_tables.exact(made.size)} bytes")
        output.say(f"inputs      {', '.join(made.inputs)}")
        output.say(f"outputs     {', '.join(made.outputs)}")
        output.say(
            f"difference  {made.difference:.2g} of the largest output at most, onnxruntime against "
            f"PyTorch, at batch size {sizes}"
        )
        output.show(text_tables.latencies(times, torch.get_num_threads()))
        output.result(
            {
                "onnx": str(made.path),
                "bytes": made.size,
                "inputs": list(made.inputs),
                "outputs": list(made.outputs),
                "batch_sizes": list(made.batch_sizes),
                "difference": made.difference,
                "latency_ms": times,
                "threads": torch.get_num_threads(),
                "seed": seed,
            }
        )


def _times(
    models: "dict[str, nn.Module]", batch: "statistics.Batch", path: Path, fixed: bool
) -> dict[str, dict[str, float]]:
    """Milliseconds of each model in PyTorch and in onnxruntime, measured in turns."""
    from mipp.cli.measuring import latency_ms
    from mipp.export import OnnxSession, export_onnx
    from mipp.tracing.guards import duplicate

    example = batch if fixed else batch.part(0, 1)
    tensors = example.tensors()
    with tempfile.TemporaryDirectory(prefix="mipp-export-") as folder:
        works = []
        for name, model in models.items():
            file = path
            if name != "model":
                file = Path(folder) / f"{name}.onnx"
                export_onnx(duplicate(model), batch, file, dynamic_batch=not fixed)
            works.append(OnnxSession(file).work(*tensors))
        found: list[Any] = latency_ms(list(models.values()), [example], works)
    count = len(models)
    return {
        name: {"pytorch": found[n], "onnxruntime": found[count + n]}
        for n, name in enumerate(models)
    }
