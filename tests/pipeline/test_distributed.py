"""Two processes that see half of the batches each make the plan of one that sees them all."""

import json

import torch
from torch import nn

import mipp


def net():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(8 * 16, 12), nn.ReLU(), nn.Linear(12, 3),
    )  # fmt: skip


def all_batches():
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(32, 1, 8, 8, generator=generator) for _ in range(6)]


def work(rank, address, out):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    try:
        mine = all_batches()[rank::2]
        options = {"calibration": mipp.CaptureConfig(rows_per_feature=2.0, min_rows=64)}
        plan = mipp.plan(net(), mine, "macs=50%", **options)
        (out / f"{rank}.json").write_text(plan.to_json())
        labelled = [(x, x.mean((1, 2, 3)).argsort() % 3) for x in mine]
        plan = mipp.plan(net(), labelled, "units=50%", method="snip")
        (out / f"snip {rank}.json").write_text(plan.to_json())
        # gloo aborts a process whose peer is gone while its threads still run
        torch.distributed.barrier()
    finally:
        torch.distributed.destroy_process_group()


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
    snip = [json.loads((tmp_path / f"snip {rank}.json").read_text()) for rank in (0, 1)]
    assert snip[0] == snip[1]
