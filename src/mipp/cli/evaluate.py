"""``mipp eval``: accuracy, cost and latency of a model with its weights, pruned or not."""

from mipp.cli import arguments as arg
from mipp.cli.output import open_output, readable_errors


def evaluate(
    model: arg.ModelName,
    weights: arg.SomeWeights,
    width: arg.Width = None,
    classes: arg.Classes = None,
    device: arg.Device = "cpu",
    data: arg.DataName = "digits",
    data_root: arg.DataRoot = None,
    seed: arg.Seed = 0,
    json: arg.Json = False,
    debug: arg.Debug = False,
) -> None:
    """Show accuracy on the test split, MACs, parameters and CPU latency of a model with weights.

    Weights of a pruned model are read into the full-size model that --model names.
    """
    import torch

    from mipp import retrain
    from mipp.cli.datasets import find_source
    from mipp.cli.model_loading import Wanted, check_fit, check_weights, open_model
    from mipp.cli.model_names import find_network
    from mipp.cli.pruning import cost_of, latency_ms
    from mipp.cli.text_tables import exact

    with readable_errors(debug) as guard:
        output = open_output(json)
        torch.manual_seed(seed)
        network = find_network(model)
        check_weights(weights)
        source = find_source(data, data_root)
        guard.arguments_read()
        opened = open_model(network, Wanted(width, classes, weights, device, seed), source)
        check_fit(network, opened, source)
        with output.busy("evaluating"):
            found = retrain.evaluate(network.classifier(opened), source.test())
            cost = cost_of(opened, source.test())
        (latency,) = latency_ms([opened], source.test())
        params = sum(parameter.numel() for parameter in opened.parameters())
        output.say(f"accuracy    {100 * found.accuracy:.2f} % of {found.n_samples} examples")
        output.say(f"loss        {found.loss:.4f} nats")
        macs = "not known: the model cannot be traced" if cost is None else exact(cost.macs)
        output.say(f"MACs        {macs}")
        output.say(f"parameters  {exact(params)}")
        output.say(f"latency     {latency:.3f} ms for one example on the CPU")
        output.result(
            {
                "accuracy": found.accuracy,
                "macs": None if cost is None else cost.macs,
                "params": params,
                "loss": found.loss,
                "n_samples": found.n_samples,
                "units": None if cost is None else cost.units,
                "latency_ms": latency,
                "seed": seed,
            }
        )
