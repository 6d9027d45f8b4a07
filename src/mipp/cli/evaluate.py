"""``mipp eval``: a metric, cost and latency of a model with its weights, pruned or not."""

import typer

from mipp.cli import arguments as arg
from mipp.cli.output import open_output, readable_errors


def evaluate(
    model: arg.ModelName,
    width: arg.Width = None,
    classes: arg.Classes = None,
    weights: arg.KnownWeights = None,
    pretrained: arg.Pretrained = False,
    device: arg.Device = "cpu",
    data: arg.DataName = None,
    data_root: arg.DataRoot = None,
    shape: arg.InputShape = None,
    tokenizer: arg.Tokenizer = None,
    task: arg.TaskName = None,
    metric: arg.MetricName = None,
    seed: arg.Seed = 0,
    json: arg.Json = False,
    debug: arg.Debug = False,
) -> None:
    """Show accuracy or perplexity on held-out data, MACs, parameters and CPU latency of a model.

    Weights of a pruned model are read into the full-size model that --model names.
    """
    import torch

    from mipp.cli.datasets import DataOptions
    from mipp.cli.measuring import cost_of, latency_ms
    from mipp.cli.model_loading import Wanted, check_fit, check_weights, open_model
    from mipp.cli.model_names import find_network
    from mipp.cli.opening import find_subject
    from mipp.cli.text_tables import exact

    with readable_errors(debug) as guard:
        output = open_output(json)
        torch.manual_seed(seed)
        network = find_network(model, pretrained=pretrained)
        if weights is None and not network.trained:
            raise typer.BadParameter(
                "say which weights are evaluated: --weights FILE; --pretrained for torchvision: "
                "and timm:; models of hf:FOLDER can have theirs in the folder.",
                param_hint="--weights",
            )
        check_weights(weights)
        reading = DataOptions(data_root, tokenizer, shape, seed)
        subject = find_subject(network, data, reading, task, metric)
        source, by = subject.source, subject.metric
        guard.arguments_read()
        opened = open_model(network, Wanted(width, classes, weights, device, seed), source)
        check_fit(network, opened, source, by)
        with output.busy("evaluating"):
            found = None if by is None else by.measure(opened, source.test())
            cost = cost_of(opened, source.test())
        (latency,) = latency_ms([opened], source.test())
        params = sum(parameter.numel() for parameter in opened.parameters())
        if by is not None and found is not None:
            of = "" if found.count is None else f" of {found.count} {by.counted}"
            output.say(f"{by.name:<10}  {by.text(found.value)}{of}")
            if found.loss is not None:
                output.say(f"loss        {found.loss:.4f} nats")
        macs = "not known: the model cannot be traced" if cost is None else exact(cost.macs)
        output.say(f"MACs        {macs}")
        output.say(f"parameters  {exact(params)}")
        output.say(f"latency     {latency:.3f} ms for one example on the CPU")
        named = by is not None and by.name == "accuracy" and found is not None
        output.result(
            {
                "accuracy": found.value if named and found else None,
                "metric": by and found and {"name": by.name, "value": found.value},
                "macs": None if cost is None else cost.macs,
                "params": params,
                "loss": found and found.loss,
                "n_samples": found and found.count,
                "units": None if cost is None else cost.units,
                "latency_ms": latency,
                "seed": seed,
            }
        )
