"""The arguments about a model and its data, together: what is worked on, and how it is measured."""

from dataclasses import dataclass

from mipp import statistics
from mipp.cli.datasets import DataOptions, Source, find_source
from mipp.cli.metrics import Metric, find_metric, is_of_tokens
from mipp.cli.model_names import Network
from mipp.cli.tasks import named_task, task_of_batch
from mipp.errors import InputError


@dataclass(frozen=True, eq=False)
class Subject:
    """A network, its data, and how it is measured.

    Attributes:
        network: that can be built.
        source: where batches come from.
        task: what it is for.
        metric: None where nothing is measured.
    """

    network: Network
    source: Source
    task: str
    metric: Metric | None

    def check_trainable(self, option: str) -> None:
        """Raise `InputError` unless it is a classifier of pairs (x, y), which can be trained here.

        Args:
            option: that asks for training.
        """
        tokens = is_of_tokens(self.task, self.metric)
        found = next(iter(self.source.test()), None)
        first = None if found is None else statistics.read_batch(found)
        if tokens or (first is not None and (first.kwargs or len(first.args) != 1)):
            what = "a language model" if tokens else "a model of several inputs, or of named ones"
            raise InputError(
                f"{option} was given for {what}; it trains classifiers on pairs (x, y) of a tensor "
                "and class indices. Prune without it, then train the pruned model "
                "(mipp.load(model, FILE)) in a loop of your own or by transformers.Trainer."
            )


def find_subject(
    network: Network, data: str | None, options: DataOptions, task: str | None, metric: str | None
) -> Subject:
    """What the arguments name, found and checked; nothing is built yet.

    Raises:
        InputError: something is not known.
        FileError: files that are damaged or not available.
    """
    named = named_task(task, network)
    options = DataOptions(options.root, options.tokenizer, options.shape, options.seed, named)
    source = find_source(data, network, options)
    if named is None and metric is None:
        first = next(iter(source.test()), None)
        named = "none" if first is None else task_of_batch(statistics.read_batch(first))
    named = named or "none"
    return Subject(network, source, named, find_metric(metric, named, network))
