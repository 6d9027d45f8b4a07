"""YOLO models of ultralytics, the whole way: plan, validate, train on, save, load, export."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import mipp
from mipp.integrations import ultralytics as prunable

pytest.importorskip("ultralytics", reason="ultralytics is not installed: make integrations")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data set of 8 + 8 images of one rectangle each, of two classes, as a YAML file."""
    cv2 = pytest.importorskip("cv2")
    folder, draw = tmp_path_factory.mktemp("rectangles"), np.random.default_rng(0)
    for part in ("train", "val"):
        (folder / "images" / part).mkdir(parents=True)
        (folder / "labels" / part).mkdir(parents=True)
        for number in range(8):
            kind, size = number % 2, int(draw.integers(16, 32))
            x, y = (int(place) for place in draw.integers(0, 64 - size, 2))
            image = np.full((64, 64, 3), 30, np.uint8)
            cv2.rectangle(image, (x, y), (x + size, y + size), ((0, 255, 0), (255, 0, 0))[kind], -1)
            cv2.imwrite(str(folder / "images" / part / f"{number}.png"), image)
            box = " ".join(str(v / 64) for v in (x + size / 2, y + size / 2, size, size))
            (folder / "labels" / part / f"{number}.txt").write_text(f"{kind} {box}\n")
    text = f"path: {folder}\ntrain: images/train\nval: images/val\nnames: {{0: green, 1: blue}}\n"
    (folder / "data.yaml").write_text(text)
    return folder / "data.yaml"


@pytest.fixture
def settings(data, tmp_path):
    """Keywords of ``val`` and ``train``."""
    return {
        "data": str(data), "imgsz": 64, "batch": 4, "workers": 0, "device": "cpu",
        "project": str(tmp_path / "runs"), "plots": False, "verbose": False, "exist_ok": True,
    }  # fmt: skip


def two_classes(name):
    """A YOLO object with random weights, for two classes."""
    from ultralytics import YOLO

    torch.manual_seed(0)
    yolo = YOLO(name)
    yolo.model = type(yolo.model)({**yolo.model.yaml, "nc": 2}, verbose=False)
    yolo.model.names, yolo.model.args = {0: "green", 1: "blue"}, {**yolo.overrides, "imgsz": 64}
    return yolo


def pruned(name, images):
    yolo = two_classes(name)
    plan = mipp.plan(
        yolo.model.eval(), images, "macs=50%", outputs=prunable.predictions, method="l2"
    )
    yolo.model = plan.apply()
    return yolo, plan


def n_params(module):
    return sum(parameter.numel() for parameter in module.parameters())


def shapes(module):
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def answers(yolo, images):
    with torch.no_grad():
        return yolo.model.eval()(images)[0]


@pytest.mark.slow
# the exporter of ultralytics is the older one of torch
@pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The feature will be removed:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Converting a tensor to a Python boolean")
@pytest.mark.parametrize("name", ["yolov8n.yaml", "yolo11n.yaml"])
def test_the_whole_way(name, data, settings, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    images = prunable.calibration_images(two_classes(name), data, imgsz=64)
    assert [tuple(batch.shape) for batch in images] == [(8, 3, 64, 64)]
    assert 0.9 < float(images[0].max()) <= 1

    yolo, plan = pruned(name, images)
    assert plan.after.macs <= 0.5 * plan.before.macs
    # the attention of YOLO11 is pruned, too: the channels that it reads
    refused = {refusal.name.split(".")[1] for refusal in plan.refused}
    assert refused == {"22" if name == "yolov8n.yaml" else "23"}  # the head alone
    assert n_params(yolo.model) < 0.7 * n_params(plan.model)
    small = shapes(yolo.model)

    metrics = yolo.val(**settings)
    assert set(metrics.results_dict) >= {"metrics/mAP50(B)", "metrics/precision(B)"}
    assert shapes(yolo.model) == small

    before = {key: value.clone() for key, value in yolo.model.state_dict().items()}
    given = yolo.model
    yolo.train(trainer=prunable.trainer(yolo), epochs=1, **settings)
    assert shapes(yolo.model) == small
    moved = [key for key, value in yolo.model.state_dict().items() if not value.equal(before[key])]
    assert len(moved) > 100
    # the module that was given is still as it was
    assert all(value.equal(before[key]) for key, value in given.state_dict().items())

    prunable.save(yolo, tmp_path / "small.safetensors")
    again = prunable.load(tmp_path / "small.safetensors")
    assert again.names == {0: "green", 1: "blue"}
    assert answers(again, images[0]).equal(answers(yolo, images[0]))
    assert mipp.original_indices(again.model) == mipp.original_indices(yolo.model)

    again.model.pt_path = str(tmp_path / "small.pt")  # beside which the export is written
    file = again.export(format="onnx", imgsz=64, simplify=False)
    session = onnxruntime.InferenceSession(file)
    one = images[0][:1]
    (given_back,) = session.run(None, {session.get_inputs()[0].name: one.numpy()})
    expected = answers(again, one).numpy()
    assert np.abs(given_back - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.slow
def test_a_loaded_model_is_trained_on_pruned_again_and_resumed(data, settings, tmp_path):
    from ultralytics import YOLO

    images = [torch.rand(4, 3, 64, 64)]
    yolo, _ = pruned("yolov8n.yaml", images)
    prunable.save(yolo, tmp_path / "small.safetensors")
    yolo = prunable.load(tmp_path / "small.safetensors")
    widths = shapes(yolo.model)

    def stop(trainer):
        raise KeyboardInterrupt

    yolo.add_callback("on_model_save", stop)
    with pytest.raises(KeyboardInterrupt):
        yolo.train(trainer=prunable.trainer(yolo), epochs=2, name="cut", **settings)

    last = YOLO(tmp_path / "runs" / "cut" / "weights" / "last.pt")
    assert shapes(last.model) == widths
    last.train(trainer=prunable.trainer(last), resume=True)
    assert last.trainer.start_epoch == 1
    assert shapes(last.model) == widths

    plan = mipp.plan(last.model, images, "macs=60%", outputs=prunable.predictions, method="l2")
    last.model = plan.apply(refit=False)
    prunable.save(last, tmp_path / "smaller.safetensors")
    smaller = prunable.load(tmp_path / "smaller.safetensors")
    assert n_params(smaller.model) == n_params(last.model) < n_params(plan.model)


def test_their_own_trainer_builds_the_full_size_model_again(data, settings):
    """Which is why there is another one: should this change, the guide has to."""
    yolo, plan = pruned("yolov8n.yaml", [torch.rand(4, 3, 64, 64)])
    yolo.train(epochs=1, **settings)
    assert n_params(yolo.model) == n_params(plan.model)


def test_data_of_other_classes_are_refused(data, settings):
    from ultralytics import YOLO

    yolo = YOLO("yolov8n.yaml")
    with pytest.raises(mipp.errors.InputError, match=r"have 2 classes, .* has 80\. Train the full"):
        yolo.train(trainer=prunable.trainer(yolo), epochs=1, **settings)


def test_several_devices_are_refused(data, settings, monkeypatch):
    from ultralytics import YOLO

    yolo = YOLO("yolov8n.yaml")
    made = prunable.trainer(yolo)

    def several(self, *args, **kwargs):
        self.ddp, self.args = True, type("Args", (), {"device": "0,1"})

    monkeypatch.setattr(made.__base__, "__init__", several)
    with pytest.raises(mipp.errors.InputError, match=r"device='0,1' .* Give one device"):
        made()


def test_a_fused_model_is_not_saved(tmp_path):
    from ultralytics import YOLO

    yolo = YOLO("yolov8n.yaml")
    yolo.fuse()
    with pytest.raises(mipp.errors.InputError, match=r"norms .* Save the model before yolo.fuse"):
        prunable.save(yolo, tmp_path / "fused.safetensors")


def test_a_part_that_the_data_lack(data):
    with pytest.raises(mipp.errors.InputError, match=r"split='test' .* no such part"):
        prunable.calibration_images(two_classes("yolov8n.yaml"), data, split="test", imgsz=64)


def test_classification_is_refused(data):
    from ultralytics import YOLO

    with pytest.raises(mipp.errors.InputError, match=r"task 'classify' .* expected one of detect"):
        prunable.calibration_images(YOLO("yolov8n-cls.yaml"), data)


def test_an_exported_model_is_refused():
    exported = type("YOLO", (), {"model": "small.onnx", "task": "detect"})()
    with pytest.raises(mipp.errors.InputError, match=r"without a torch module .* \.yaml or \.pt"):
        prunable.save(exported, "small.safetensors")


def changed(path, **facts):
    """The file with other facts about the model, its digest made good."""
    from mipp.surgery.file_record import digest_of

    with safe_open(path, "pt") as file:
        content = json.loads(file.metadata()["mipp"])
    del content["digest"]
    content["extra"]["ultralytics"] |= facts
    tensors = load_file(path)
    content["digest"] = digest_of(content, tensors)
    save_file(tensors, path, {"mipp": json.dumps(content)})


def test_a_file_cannot_run_code(tmp_path):
    yolo, path = two_classes("yolov8n.yaml"), tmp_path / "small.safetensors"
    prunable.save(yolo, path)
    plain = dict(yolo.model.yaml)
    changed(path, yaml={**plain, "activation": "__import__('os').getcwd()"})
    with pytest.raises(mipp.errors.FileError, match=r"has the activation .* the call of a layer"):
        prunable.load(path)
    changed(path, yaml={**plain, "backbone": [[-1, 1, "load_checkpoint", ["other.pt"]]]})
    with pytest.raises(mipp.errors.FileError, match=r"names a layer 'load_checkpoint'"):
        prunable.load(path)
    changed(path, yaml=plain)
    assert n_params(prunable.load(path).model) == n_params(yolo.model)


def test_a_file_of_another_model(tmp_path):
    mipp.save(torch.nn.Linear(2, 2), tmp_path / "other.safetensors")
    with pytest.raises(mipp.errors.FileError, match=r"was not written by mipp.integrations.ultra"):
        prunable.load(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("yolov8n.yaml", set()),
        ("yolo11n-seg.yaml", {"coefficients", "masks"}),
        ("yolov8n-pose.yaml", {"keypoints"}),
        ("yolov8n-obb.yaml", {"angles"}),
        ("yolov10n.yaml", set()),
    ],
)
def test_predictions_are_on_scales_on_which_errors_are_as_bad(name, more):
    from ultralytics import YOLO

    torch.manual_seed(0)
    model = YOLO(name).model.eval()
    with torch.no_grad():
        output = model(torch.rand(2, 3, 64, 64))
    raw = output[0] if isinstance(output[0], torch.Tensor) else output[0][0]
    found = prunable.predictions(output)
    assert set(found) == {"boxes", "classes"} | more
    n_classes = 1 if "pose" in name else 80
    probabilities = raw[:, 4 : 4 + n_classes]
    torch.testing.assert_close((found["classes"] / 2).sin() ** 2, probabilities)
    sure = probabilities.amax(1, keepdim=True).sqrt()
    # a box as wide as it is has ten tenths of its size, where something is surely found
    sides = found["boxes"][:, 2:] / sure
    wide = raw[:, 2:4] >= 1
    torch.testing.assert_close(sides[wide], torch.full_like(sides[wide], 10.0))


def test_a_classifier_predicts_logits():
    from ultralytics import YOLO

    torch.manual_seed(0)
    model = YOLO("yolov8n-cls.yaml").model.eval()
    with torch.no_grad():
        probabilities, logits = model(torch.rand(2, 3, 64, 64))
    assert prunable.predictions((probabilities, logits)) is logits
    torch.testing.assert_close(logits.softmax(1), probabilities)


def test_maps_of_older_versions_tell_the_number_of_classes():
    y, maps = torch.rand(2, 4 + 3, 84), [torch.rand(2, 64 + 3, 8, 8)]
    assert prunable.predictions((y, maps))["classes"].shape == (2, 3, 84)
    y, masks = torch.rand(2, 4 + 3 + 32, 84), torch.rand(2, 32, 16, 16)
    found = prunable.predictions((y, (maps, torch.rand(2, 32, 84), masks)))
    assert found["coefficients"].shape == (2, 32, 84)
    assert found["masks"] is masks


@pytest.mark.parametrize("output", [{"boxes": 1}, (torch.rand(2, 7, 84), {"feats": []})])
def test_other_outputs_are_refused(output):
    with pytest.raises(mipp.errors.InputError, match=r"function .*for outputs="):
        prunable.predictions(output)
