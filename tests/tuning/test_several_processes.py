"""Two processes with their own examples tune to the same weights, with gradients of all."""

import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import mipp
from tests.ranks import leave


def net(n_hidden, seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, n_hidden), nn.ReLU(), nn.Linear(n_hidden, 3))


def batches():
    generator = torch.Generator().manual_seed(5)
    return [3 * torch.randn(32, 4, generator=generator) for _ in range(3)]


SETTINGS = mipp.Tune(passes=5, learning_rate=3e-3, batch_size=16)


def work(rank, address, out):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    try:
        small = net(6, 1)
        # two batches for the first process, one for the second
        tuned = mipp.tune(small, net(16, 0), batches()[rank::2], SETTINGS, progress=False)
        (out / f"{rank}.txt").write_text(repr((tuned.before, tuned.after, tuned.examples)))
        save_file(small.state_dict(), out / f"{rank}.safetensors")
        # all examples of a step, in whatever process they are, give one gradient
        small = net(6, 1)
        alike = [batches()[0].repeat_interleave(2, 0)[rank::2]]
        mipp.tune(small, net(16, 0), alike, SETTINGS, progress=False)
        save_file(small.state_dict(), out / f"alike {rank}.safetensors")
        for name, mine in (
            ("plan ", batches()[rank::2]),
            ("few ", [batches()[rank][: 2 + 30 * rank]]),
        ):
            with warnings.catch_warnings(action="ignore"):
                plan = mipp.plan(net(16, 0), mine, "units=25%", seed=0)
                small, tuned = plan.apply_tuned(SETTINGS, progress=False)
            save_file(small.state_dict(), out / f"{name}{rank}.safetensors")
            (out / f"{name}{rank}.txt").write_text(repr((tuned.before, tuned.on_all, tuned.after)))
        leave()
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_tune_as_one_model(tmp_path):
    address = f"file://{tmp_path / 'meet'}"
    torch.multiprocessing.spawn(work, args=(address, tmp_path), nprocs=2)
    for name in ("", "plan ", "few ", "alike "):
        two = [load_file(tmp_path / f"{name}{rank}.safetensors") for rank in (0, 1)]
        assert all(torch.equal(value, two[1][key]) for key, value in two[0].items())
    for name in ("plan ", "few "):
        told = [(tmp_path / f"{name}{rank}.txt").read_text() for rank in (0, 1)]
        assert told[0] == told[1]
    before, on_all, after = eval((tmp_path / "plan 0.txt").read_text())
    assert after < before
    assert len(on_all) > 0
    told = [(tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)]
    assert told[0] == told[1]
    before, after, examples = eval(told[0])
    assert after < 0.9 * before
    assert examples == (84, 12)
    # both have the same examples: the mean of equal gradients is that of one process
    alone = net(6, 1)
    mipp.tune(alone, net(16, 0), batches()[:1], SETTINGS, progress=False)
    for key, value in alone.state_dict().items():
        torch.testing.assert_close(two[0][key], value, rtol=1e-4, atol=1e-5)
