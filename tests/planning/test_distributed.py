"""Two processes that see half of the batches each make the plan of one that sees them all."""

import json

import torch
from safetensors.torch import load_file, save_file
from torch import nn

import mipp
from tests.ranks import leave


def net():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(8 * 16, 12), nn.ReLU(), nn.Linear(12, 3),
    )  # fmt: skip


class Routed(nn.Module):
    """Every example goes to one of three experts."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.gate, self.out = nn.Linear(4, 3), nn.Linear(4, 2)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 4)) for _ in range(3)
        )

    def forward(self, x):
        best, made = self.gate(x).argmax(1), torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            (mine,) = torch.where(best == number)
            made = made.index_add(0, mine, expert(x[mine]))
        return self.out(made)


def routed_batches():
    """Sorted by where they go, so that processes see other shares of each expert."""
    x = torch.randn(200, 4, generator=torch.Generator().manual_seed(6))
    order = Routed().gate(x).argmax(1).argsort(stable=True)
    first, second = x[order][::2], x[order][1::2]
    # each process sees all experts at some time, but starts with another one
    return [list(first.split(20)), list(second.flip(0).split(20))]


def all_batches():
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(32, 1, 8, 8, generator=generator) for _ in range(6)]


class Reader(nn.Module):
    """A number for each token."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.embedding, self.wide, self.narrow = (
            nn.Embedding(9, 4),
            nn.Linear(4, 8),
            nn.Linear(8, 2),
        )

    def forward(self, input_ids, attention_mask):
        return self.narrow(self.wide(self.embedding(input_ids)).relu())


def text_batches():
    """The longest text is in the second batch, which is that of the second process."""
    generator = torch.Generator().manual_seed(4)
    lengths = ((3, 4), (5, 7), (2, 5), (6, 1), (4, 4))
    return [
        {
            "input_ids": torch.randint(0, 9, (2, max(pair)), generator=generator),
            "attention_mask": (torch.arange(max(pair)) < torch.tensor(pair)[:, None]).long(),
        }
        for pair in lengths
    ]


OF_ONE = {
    # three batches for the first process, two for the second
    "units of texts": (lambda: Reader().eval(), text_batches, {"budget": "units=50%"}),
    "weights": (net, all_batches, {"budget": "params=30%", "granularity": "weight"}),
    "weights of texts": (
        lambda: Reader().eval(), text_batches, {"budget": "params=70%", "granularity": "weight"}
    ),
    "weights by wanda": (
        net, lambda: all_batches()[:5],
        {"budget": "params=30%", "granularity": "weight", "method": "wanda"},
    ),
}  # fmt: skip
"""Plans that two processes and one make alike, whatever share each has; all rows are used."""


def work(rank, address, out):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    try:
        mine = all_batches()[rank::2]
        options = {"calibration": mipp.CaptureConfig(rows_per_feature=2.0, min_rows=64)}
        plan = mipp.plan(net(), mine, "macs=50%", **options)
        (out / f"{rank}.json").write_text(plan.to_json())
        save_file(plan.apply().state_dict(), out / f"{rank}.safetensors")
        labelled = [(x, x.mean((1, 2, 3)).argsort() % 3) for x in mine]
        plan = mipp.plan(net(), labelled, "units=50%", method="snip")
        (out / f"snip {rank}.json").write_text(plan.to_json())
        plan = mipp.plan(Routed().eval(), routed_batches()[rank], "macs=60%", noise=0.1)
        (out / f"routed {rank}.json").write_text(plan.to_json())
        for name, (model, batches, options) in OF_ONE.items():
            plan = mipp.plan(model(), batches()[rank::2], **options)
            (out / f"{name} {rank}.json").write_text(plan.to_json())
            save_file(plan.apply().state_dict(), out / f"{name} {rank}.safetensors")
        leave()
    finally:
        torch.distributed.destroy_process_group()


def check_fitted(plan, folder, name):
    """Both processes have fitted the same, and what one does with all batches."""
    two = [load_file(folder / f"{name}{rank}.safetensors") for rank in (0, 1)]
    assert all(torch.equal(value, two[1][key]) for key, value in two[0].items()), name
    moved = plan.apply(refit=False).state_dict()
    for key, value in plan.apply().state_dict().items():
        torch.testing.assert_close(two[0][key], value, rtol=1e-3, atol=1e-4, msg=f"{name}{key}")
    assert any(not torch.allclose(two[0][key], value) for key, value in moved.items()), name


def test_two_processes_make_the_plan_of_one_and_agree_on_the_scores_of_a_method(tmp_path):
    address = f"file://{tmp_path / 'meet'}"
    torch.multiprocessing.spawn(work, args=(address, tmp_path), nprocs=2)
    options = {"calibration": mipp.CaptureConfig(rows_per_feature=2.0, min_rows=64)}
    alone = mipp.plan(net(), all_batches(), "macs=50%", **options)
    for rank in (0, 1):
        read = mipp.Plan.from_json((tmp_path / f"{rank}.json").read_text())
        assert read.keep == alone.keep
        for ours, theirs in zip(read.summary, alone.summary, strict=True):
            assert abs(ours.nats_before - theirs.nats_before) < 1e-6 * theirs.nats_before
        assert json.loads(read.to_json())["after"] == json.loads(alone.to_json())["after"]
    check_fitted(alone, tmp_path, "")
    snip = [json.loads((tmp_path / f"snip {rank}.json").read_text()) for rank in (0, 1)]
    assert snip[0] == snip[1]
    for name, (model, batches, options) in OF_ONE.items():
        plan = mipp.plan(model(), batches(), **options)
        check_fitted(plan, tmp_path, f"{name} ")
        alone = json.loads(plan.to_json())
        two = [json.loads((tmp_path / f"{name} {rank}.json").read_text()) for rank in (0, 1)]
        chosen = "masks" if "granularity" in options else "keep"
        assert two[0] == two[1], name
        assert two[0][chosen] == alone[chosen], name
        assert two[0]["after"] == alone["after"], name
    routed = [json.loads((tmp_path / f"routed {rank}.json").read_text()) for rank in (0, 1)]
    assert routed[0] == routed[1]
