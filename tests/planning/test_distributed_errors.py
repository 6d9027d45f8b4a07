"""What goes wrong in one of two processes is raised in both, and they can go on together."""

import datetime as dt
import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

import mipp
from tests.ranks import leave

PATIENCE = dt.timedelta(seconds=60)
"""A process that waits for longer gives up, so that a hang is an error and no standstill."""


class Net(nn.Module):
    """Refuses images brighter than 100."""

    def __init__(self, seed: int = 1) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.second = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 8, 3)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        if not torch.compiler.is_compiling() and float(x.detach().max()) > 100:
            raise RuntimeError("an image that is too bright")
        return self.head(self.second(self.first(x).relu()).relu().mean((2, 3)))


class Gated(nn.Module):
    """Positive examples go to the second of two experts, the others to the first."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 4)) for _ in range(2)
        )
        self.out = nn.Linear(4, 2)

    def forward(self, x):
        positive, made = x[:, 0] > 0, torch.zeros_like(x)
        for expert, condition in zip(self.experts, (~positive, positive), strict=True):
            (mine,) = torch.where(condition)
            made = made.index_add(0, mine, expert(x[mine]))
        return self.out(made)


def batches(rank: int, size: int = 8, count: int = 3) -> list[Any]:
    generator = torch.Generator().manual_seed(rank)
    images = [torch.randn(16, 1, size, size, generator=generator) for _ in range(count)]
    return [(x, torch.arange(16) % 3) for x in images]


def changed(rank: int, change: Callable[[torch.Tensor], torch.Tensor]) -> list[Any]:
    """The last batch of rank 1 with other images."""
    *before, (x, y) = batches(rank)
    return [*before, (change(x) if rank == 1 else x, y)]


def nan_in(x: torch.Tensor) -> torch.Tensor:
    return torch.where(torch.arange(8) == 3, torch.nan, x)


def broken_file(rank: int) -> Iterator[Any]:
    yield from batches(rank)
    if rank == 1:
        raise OSError("the disk is gone")


WAYS: dict[str, dict[str, Any]] = {
    "units": {"budget": "macs=50%"},
    "units without gradients": {"budget": "macs=50%", "noise": 0.1},
    "snip": {"budget": "units=50%", "method": "snip"},
    "flap": {"budget": "units=50%", "method": "flap"},
    "thinet": {"budget": "units=50%", "method": "thinet"},
    "weights": {"budget": "params=50%", "granularity": "weight"},
    "weights by snip": {"budget": "params=50%", "granularity": "weight", "method": "snip"},
    "weights by wanda": {"budget": "params=50%", "granularity": "weight", "method": "wanda"},
}

BAD: dict[str, tuple[Callable[[int], Any], str]] = {
    "nan": (lambda rank: changed(rank, nan_in), "Batch 2 has NaN or infinite values"),
    "no batch": (lambda rank: batches(rank) if rank == 0 else [], "The batches are empty"),
    "no example": (
        lambda rank: batches(rank) if rank == 0 else [torch.zeros(0, 1, 8, 8)],
        "The batches are empty",
    ),
    "another shape in one batch": (
        lambda rank: changed(rank, lambda x: x[..., :7]),
        r"Batch 2 has inputs \(1, 8, 7\)",
    ),
    "another shape": (
        lambda rank: batches(rank, size=8 + rank),
        r"differs from rank 0 in the inputs of one example: \(1, 9, 9\) float32 instead of \(1, 8",
    ),
    "another dtype": (
        lambda rank: [(x.double() if rank else x, y) for x, y in batches(rank)],
        r"differs from rank 0 in the inputs of one example: \(1, 8, 8\) float64 instead of",
    ),
    "a forward that fails": (
        lambda rank: changed(rank, lambda x: x + 200),
        "RuntimeError: an image that is too bright",
    ),
    "a loader that fails": (broken_file, "OSError: the disk is gone"),
}

Scenario = tuple[Callable[[int], Any], str]
"""What a rank runs, and the text after ``rank 1:`` that all of them raise."""


def with_bad_data(way: str, bad: str) -> Scenario:
    data, text = BAD[bad]
    return lambda rank: mipp.plan(Net(), data(rank), **WAYS[way]), text


def with_another_model(way: str) -> Scenario:
    return (
        lambda rank: mipp.plan(Net(seed=1 + rank), batches(rank), **WAYS[way]),
        r"differs from rank 0 in the model: first.weight \(6, 1, 3, 3\) float32 with checksum",
    )


def failing_loss(rank: int) -> Callable[[Any, Any], torch.Tensor]:
    def loss(output, target):
        if rank == 1:
            raise KeyError("weights of the classes")
        return output.square().sum()

    return loss


def nan_loss(rank: int) -> Callable[[Any, Any], torch.Tensor]:
    return lambda output, _: output.square().sum() * (torch.nan if rank == 1 else 1.0)


def with_loss(way: str, loss: Callable[[int], Any], text: str) -> Scenario:
    return (
        lambda rank: mipp.plan(Net(), batches(rank), loss=loss(rank), **WAYS[way]),
        text,
    )


def routed(way: str, text: str) -> Scenario:
    """No example of rank 1 goes to the first expert."""

    def run(rank: int) -> Any:
        x = torch.randn(64, 4, generator=torch.Generator().manual_seed(3))
        if rank == 1:
            # the first eight are looked at to find what can be pruned
            x[8:, 0] = x[8:, 0].abs() + 1
            x = torch.cat([x[8:], x[8:16]])
        return mipp.plan(Gated().eval(), [x], **WAYS[way])

    return run, text


SCENARIOS: dict[str, Scenario] = {
    **{f"{way}: {bad}": with_bad_data(way, bad) for way in WAYS for bad in BAD},
    **{f"{way}: another model": with_another_model(way) for way in WAYS},
    "units: a loss that fails": with_loss("units", failing_loss, "KeyError: 'weights of the"),
    "snip: a loss that fails": with_loss("snip", failing_loss, "KeyError: 'weights of the"),
    "weights: a loss that fails": with_loss("weights", failing_loss, "KeyError: 'weights of the"),
    "units: a loss of NaN": with_loss("units", nan_loss, "The gradient at the output of second"),
    "weights: a loss of NaN": with_loss("weights", nan_loss, "The gradient at the output of fi"),
    "snip: a loss of NaN": with_loss(
        "snip", nan_loss, "method='snip' gave scores of group .* that are not finite"
    ),
    "weights by snip: a loss of NaN": with_loss(
        "weights by snip", nan_loss, "method='snip' gave scores of first.weight that are not fin"
    ),
    "units: an expert without tokens": routed(
        "units without gradients", "No token of the calibration batches reaches experts.0"
    ),
    "snip: no labels": (
        lambda rank: mipp.plan(
            Net(), [x if rank else (x, y) for x, y in batches(rank)], **WAYS["snip"]
        ),
        "method='snip' needs labels, and batch 0 has none",
    ),
    "units: targets on one rank only": (
        lambda rank: mipp.plan(
            Net(), [(x, x.sum(1)) if rank else (x, y) for x, y in batches(rank)], **WAYS["units"]
        ),
        "differs from rank 0 in the loss: the targets are no class numbers instead of",
    ),
    "units: an unknown option": (
        lambda rank: mipp.plan(Net(), batches(rank), "macs=50%", **({"nois": 1} if rank else {})),
        "mipp.plan has no option nois",
    ),
    "units: a budget out of reach": (
        lambda rank: mipp.plan(Net(), batches(rank), f"macs={50 - 49.99 * rank}%", noise=0.1),
        "The budget macs",
    ),
    "units: another method": (
        lambda rank: mipp.plan(Net(), batches(rank), "units=50%", method=["mipp", "snip"][rank]),
        "is at another step than rank 0: the scores of group|"
        "is at another step than rank 0: the groups with scores",
    ),
    "several plans: nan": (
        lambda rank: mipp.plans(Net(), changed(rank, nan_in), ["macs=50%", "macs=40%"]),
        "Batch 2 has NaN",
    ),
    "information kept: a forward that fails": (
        lambda rank: mipp.information_kept(
            Net(), BAD["a forward that fails"][0](rank), {"first": (0, 1)}
        ),
        "RuntimeError: an image that is too bright",
    ),
}


OF_ALL: dict[str, tuple[dict[str, Any], str]] = {
    "a budget out of reach": ({"budget": "macs=0.01%"}, "The budget macs"),
    "rows of observations": (
        {"confidence": 0.9}, "Rows of observations are not merged over processes"
    ),
}  # fmt: skip
"""What every rank refuses for the same reason."""


def raised(run: Callable[[int], Any], rank: int) -> dict[str, Any]:
    try:
        run(rank)
    except Exception as error:  # noqa: BLE001 # of all kinds, that is what is looked at
        text = [*getattr(error, "__notes__", []), str(error)][0]
        return {
            "text": text,
            "ours": isinstance(error, mipp.MippError),
            "class": type(error).__name__,
        }
    return {"text": "nothing was raised", "ours": False, "class": ""}


def work(rank: int, address: str, out: Any) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=address, rank=rank, world_size=2, timeout=PATIENCE
    )
    try:
        found = {}
        for name, (run, _) in SCENARIOS.items():
            found[name] = raised(run, rank)
            ranks = torch.tensor(rank + 1)
            torch.distributed.all_reduce(ranks)
            found[name]["in step"] = int(ranks) == 3
            (out / f"{rank}.json").write_text(json.dumps(found))
        for way, options in WAYS.items():
            plan = mipp.plan(Net(), batches(rank, count=2 + rank), **options)
            found[f"{way}: plan"] = json.loads(plan.to_json())
        for name, (options, _) in OF_ALL.items():
            found[name] = raised(lambda _, o=options: mipp.plan(Net(), batches(0), **o), rank)
        if rank == 1:
            training = mipp.Training(batches(1), mipp.retrain.Recipe(epochs=1))
            alone = mipp.plan(Net(), batches(1), "units=50%", method="imp", training=training)
            found["alone"] = alone.after.units
        (out / f"{rank}.json").write_text(json.dumps(found))
        leave()
    finally:
        torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each rank found."""
    out = tmp_path_factory.mktemp("ranks")
    context = torch.multiprocessing.spawn(
        work, args=(f"file://{out / 'meet'}", out), nprocs=2, join=False
    )
    stop = time.monotonic() + 5 * PATIENCE.total_seconds()
    try:
        while not context.join(timeout=1):
            assert time.monotonic() < stop, "the processes do not come to an end"
    finally:
        for process in context.processes:
            process.kill()
    return [json.loads((out / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("name", SCENARIOS)
def test_what_fails_on_one_rank_is_raised_on_both_with_the_same_text(found, name):
    first, second = (mine[name] for mine in found)
    assert first["text"] == second["text"]
    assert re.match(f"rank 1: .*({SCENARIOS[name][1]})", first["text"]), first
    assert first["ours"]  # where it did not happen there is no other error to raise
    assert [first["in step"], second["in step"]] == [True, True]
    if second["ours"]:
        assert first["class"] == second["class"]


def test_an_error_of_the_users_code_stays_what_it_is_where_it_happened(found):
    name = "units: a loader that fails"
    assert [mine[name]["class"] for mine in found] == ["CalibrationError", "OSError"]


@pytest.mark.parametrize("name", OF_ALL)
def test_an_error_of_all_ranks_has_no_number(found, name):
    assert found[0][name] == found[1][name]
    assert found[0][name]["text"].startswith(OF_ALL[name][1])


def test_a_method_that_trains_needs_no_other_rank(found):
    assert found[1]["alone"] < 14
    assert "alone" not in found[0]


@pytest.mark.parametrize("way", WAYS)
def test_ranks_with_other_numbers_of_batches_make_the_same_plan_after_all_errors(found, way):
    first, second = (mine[f"{way}: plan"] for mine in found)
    assert first == second
