"""Pruning in rounds while Lightning trains: in place, resumable, in two processes."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import mipp
from mipp.errors import FileError, InputError
from tests.integrations.processes import run_two

L = pytest.importorskip("lightning", reason="lightning is not installed: make integrations")

from mipp.integrations.lightning import PruneCallback, load  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*number of training batches:UserWarning"),
]

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
Y = (X.sum(1) > 0).long() + (X[:, 0] > 0).long()


class Lit(L.LightningModule):
    """A small classifier."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 3)
        )
        self.rates = []

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, number):
        self.rates.append(self.optimizers().param_groups[0]["lr"])
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]


def loader():
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), 16)


def trainer(epochs, *callbacks, **settings):
    return L.Trainer(
        max_epochs=epochs, accelerator="cpu", callbacks=list(callbacks), logger=False,
        enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False,
        **settings,
    )  # fmt: skip


def callback(**settings):
    return PruneCallback([X], "macs=25%", **{"rounds": 2, "target": "net"} | settings)


@pytest.mark.parametrize("target", ["net", ""])
def test_the_budget_is_met_and_optimizer_and_schedule_go_on(target):
    module, prune = Lit(), callback(target=target)
    run = trainer(4, prune)
    parameters = list(module.parameters())
    run.fit(module, loader())
    full = 6 * 32 + 32 * 16 + 16 * 3
    assert sum(m.weight.numel() for m in module.net if isinstance(m, nn.Linear)) <= full / 4
    assert [entry["at"] for entry in prune.rounds.history] == [1, 2]
    assert list(map(id, module.parameters())) == list(map(id, parameters))
    assert module.rates == [rate for rate in (1e-2, 5e-3, 2.5e-3, 1.25e-3) for _ in range(4)]
    state = run.optimizers[0].state
    assert all(state[p]["exp_avg"].shape == p.shape and state[p]["step"] == 16 for p in parameters)
    assert "on_load_checkpoint" not in vars(module)


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_a_resumed_run_ends_with_the_same_weights(epochs, tmp_path):
    straight = Lit()
    trainer(4, callback()).fit(straight, loader())
    first = trainer(epochs, callback())
    first.fit(cut := Lit(), loader())
    first.save_checkpoint(tmp_path / "cut.ckpt")
    resumed, prune = Lit(), callback()
    trainer(4, prune).fit(resumed, loader(), ckpt_path=tmp_path / "cut.ckpt", weights_only=True)
    assert prune.rounds.done == 2
    assert mipp.original_indices(resumed.net) == mipp.original_indices(straight.net)
    assert all(
        mine.equal(its)
        for mine, its in zip(resumed.parameters(), straight.parameters(), strict=True)
    )
    again = Lit()
    load(again, tmp_path / "cut.ckpt", target="net")
    assert again(X).equal(cut(X))
    mipp.save(again.net, tmp_path / "net.safetensors")
    assert mipp.load(lambda: Lit().net, tmp_path / "net.safetensors")(X).equal(cut(X))


def test_rounds_after_steps():
    module, prune = Lit(), callback(unit="step", every=3, start=2)
    trainer(2, prune).fit(module, loader())
    assert [entry["at"] for entry in prune.rounds.history] == [2, 5]


def in_two_processes(rank, folder):
    module = Lit()
    # each process measures its own half
    prune = PruneCallback([X[rank::2]], "macs=25%", rounds=2, target="net")
    trainer(3, prune, strategy="ddp", devices=2).fit(module, loader())
    assert [entry["at"] for entry in prune.rounds.history] == [1, 2]
    save_file(dict(module.net.state_dict()), folder / f"{rank}.safetensors")


@pytest.mark.slow
def test_two_processes_keep_the_same_units_and_weights(tmp_path):
    first, second = run_two(in_two_processes, tmp_path)
    assert first["0.weight"].shape[0] < 20
    assert all(value.equal(second[name]) for name, value in first.items())


def test_a_target_that_is_none():
    with pytest.raises(InputError, match=r"target='nett' .* no such module; .* one of: net\."):
        trainer(1, callback(target="nett")).fit(Lit(), loader())


def test_a_unit_that_is_none():
    with pytest.raises(InputError, match=r"unit='batch' was given; expected 'epoch' or 'step'"):
        callback(unit="batch")


def test_averaged_weights_are_refused():
    averaging = L.pytorch.callbacks.StochasticWeightAveraging(swa_lrs=1e-2)
    with pytest.raises(InputError, match=r"StochasticWeightAveraging .* Average after pruning"):
        trainer(1, callback(), averaging).fit(Lit(), loader())


def test_a_strategy_that_splits_parameters_is_refused():
    run = trainer(1, prune := callback())
    run.strategy.__class__ = type("FSDPStrategy", (type(run.strategy),), {})
    with pytest.raises(InputError, match=r"FSDPStrategy was given, which splits parameters"):
        prune.setup(run, Lit(), "fit")


def test_a_checkpoint_without_rounds(tmp_path):
    run = trainer(1)
    run.fit(Lit(), loader())
    run.save_checkpoint(tmp_path / "plain.ckpt")
    with pytest.raises(FileError, match=r"no state of PruneCallback.*Lit.load_from_checkpoint"):
        load(Lit(), tmp_path / "plain.ckpt", target="net")
