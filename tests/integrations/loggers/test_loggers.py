"""The loggers of others hold the plan's figures and those of retraining, as they give them back."""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import mipp
from mipp.errors import InputError
from mipp.integrations import loggers


@pytest.fixture(scope="module")
def plan():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
    x = torch.randn(128, 6)
    return mipp.plan(net, [(x, x[:, :3].argmax(1))], "units=50%")


def run(plan, sink):
    """Logs the plan and two epochs of retraining; the epochs' records."""
    sink.log_plan(plan)
    records = []

    def both(record):
        records.append(record)
        sink.log_epoch(record)

    recipe = mipp.retrain.Recipe(epochs=2, peak_lr=0.05)
    x = torch.randn(64, 6)
    batches = [(x, x[:, :3].argmax(1))]
    history = mipp.retrain.train(
        plan.apply(), batches, recipe, evaluate_on=batches, on_epoch=both, progress=False
    )
    assert tuple(records) == history.epochs
    return records


def test_metrics_of_an_epoch():
    Evaluation = mipp.retrain.Evaluation
    record = mipp.retrain.EpochRecord(3, Evaluation(0.5, 0.9, 10), None, 0.1, 2.0)
    assert record.metrics() == {
        "train/loss": 0.5, "train/accuracy": 0.9, "learning_rate": 0.1, "seconds": 2.0
    }  # fmt: skip


def test_tensorboard(plan, tmp_path):
    board = pytest.importorskip("torch.utils.tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with board.SummaryWriter(tmp_path) as writer:
        records = run(plan, loggers.tensorboard(writer))
    read = EventAccumulator(str(tmp_path))
    read.Reload()
    (left,) = read.Scalars("mipp/plan/macs/left")
    assert left.value == pytest.approx(plan.after.macs / plan.before.macs)
    losses = read.Scalars("mipp/retrain/evaluation/loss")
    assert [event.step for event in losses] == [0, 1]
    assert [event.value for event in losses] == pytest.approx(
        [record.evaluation.loss for record in records]
    )
    (text,) = read.Tensors("mipp/plan.txt/text_summary")
    assert b"MACs:" in text.tensor_proto.string_val[0]
    with pytest.raises(InputError, match="expected a SummaryWriter"):
        loggers.tensorboard("runs")


@pytest.mark.filterwarnings("ignore")  # of the package itself
def test_mlflow(plan, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    with pytest.raises(InputError, match="Start one with mlflow"):
        loggers.mlflow()
    with mlflow.start_run() as active:
        records = run(plan, loggers.mlflow())
        loggers.mlflow(prefix="odd: name").write({"width/0:1": 2.0}, 0)
    client = mlflow.MlflowClient()
    found = client.get_run(active.info.run_id).data.metrics
    assert found["mipp/plan/width/0"] == 6
    assert found["odd_ name/width/0_1"] == 2
    history = client.get_metric_history(active.info.run_id, "mipp/retrain/train/accuracy")
    assert [(one.step, one.value) for one in history] == [
        (record.epoch, record.train.accuracy) for record in records
    ]
    place = client.download_artifacts(active.info.run_id, "mipp/plan.txt", str(tmp_path))
    assert Path(place).read_text() == str(plan)


@pytest.mark.filterwarnings("ignore")  # of the package itself
def test_wandb(plan, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with pytest.raises(InputError, match=r"Call wandb\.init"):
        loggers.wandb()
    with wandb.init(mode="offline", dir=tmp_path, project="mipp") as active:
        records = run(plan, loggers.wandb())
        summary = dict(active.summary)
    assert summary["mipp/plan/macs/left"] == plan.after.macs / plan.before.macs
    assert summary["mipp/retrain/train/loss"] == records[-1].train.loss
    assert summary["mipp/retrain/step"] == 1
    assert summary["mipp/plan.txt"] == str(plan)
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_package_that_is_not_there(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=f"pip install {name}"):
        getattr(loggers, name)()


def test_plans_of_single_weights_are_logged(tmp_path):
    class Kept:
        def __init__(self):
            self.scalars, self.texts = {}, {}

        def add_scalar(self, name, value, step):
            self.scalars[name, step] = value

        def add_text(self, name, text, step):
            self.texts[name, step] = text

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
    made = mipp.plan(net, [torch.randn(128, 6)], "params=50%", granularity="weight")
    kept = Kept()
    loggers.tensorboard(kept, prefix="one").log_plan(made, step=4)
    expected = {(f"one/plan/{name}", 4): value for name, value in made.metrics().items()}
    assert kept.scalars == expected
    assert json.dumps(list(kept.texts)) == '[["one/plan.txt", 4]]'
