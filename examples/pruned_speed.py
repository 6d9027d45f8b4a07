"""How fast a pruned CNN is in PyTorch, onnxruntime and OpenVINO, and what its widths do to that.

All times of a table are taken in turns in one run, on one thread; a ratio is the median over the
turns of the time of the whole net over that of the pruned one. Needs the extra ``onnx``; the column
of OpenVINO is empty where it is not installed. Run it as ``python examples/pruned_speed.py``.
"""

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

import onnxruntime
import torch
from torch import Tensor, nn

import mipp

TURNS = 60


def net() -> nn.Sequential:
    """Four convolutions with batch norms, 64 to 128 channels wide, for images of 32 x 32."""
    layers: list[nn.Module] = []
    for made, stride in ((64, 1), (64, 1), (128, 2), (128, 1)):
        width = 3 if not layers else layers[-2].num_features
        layers += [nn.Conv2d(width, made, 3, stride, 1), nn.BatchNorm2d(made), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10)).eval()


def in_pytorch(model: nn.Module, x: Tensor) -> Callable[[], object]:
    """One forward pass."""

    def run() -> object:
        with torch.inference_mode():
            return model(x)

    return run


def in_onnxruntime(model: nn.Module, x: Tensor) -> Callable[[], object]:
    """One pass of the exported file, on one thread."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        mipp.export.export_onnx(model, torch.cat([x, x]), path)
        session = onnxruntime.InferenceSession(path, settings, ["CPUExecutionProvider"])
    given = {session.get_inputs()[0].name: x.numpy()}
    return lambda: session.run(None, given)


def in_openvino(model: nn.Module, x: Tensor) -> Callable[[], object] | None:
    """One pass of the converted program, in float32 on one thread."""
    try:
        import openvino  # noqa: PLC0415 - may be absent
    except ImportError:
        return None
    program = openvino.convert_model(torch.export.export(model, (x,)))
    exact = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.compile_model(program, "CPU", exact)
    values = x.numpy()
    return lambda: compiled(values)


PLACES = {"PyTorch": in_pytorch, "onnxruntime": in_onnxruntime, "OpenVINO": in_openvino}


def times(runs: Mapping[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Milliseconds of each, in turns, after three passes each to warm up."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(TURNS + 3):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if turn >= 3:
                taken[name].append(1e3 * (time.perf_counter() - start))
    return taken


def compare(models: Mapping[str, tuple[nn.Module, Tensor]]) -> None:
    """Prints milliseconds of the first model, and how much faster than it the others are.

    Args:
        models: Name -> model and its input.
    """
    first = next(iter(models))
    columns = {}
    for place, make in PLACES.items():
        runs = {name: make(model, x) for name, (model, x) in models.items()}
        if None not in runs.values():
            columns[place] = times(runs)
    print(f"{'':14}{'widths':>16}" + "".join(f"{place:>14}" for place in columns))
    for name, (model, _) in models.items():
        widths = " ".join(str(m.out_channels) for m in model.modules() if isinstance(m, nn.Conv2d))
        cells = [
            f"{median(taken[name]):.2f} ms"
            if name == first
            else f"{median(a / b for a, b in zip(taken[first], taken[name], strict=True)):.2f}x"
            for taken in columns.values()
        ]
        print(f"{name:14}{widths:>16}" + "".join(f"{cell:>14}" for cell in cells))


def main() -> None:
    """Pruned nets of one budget but other widths, then one convolution by its width."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, x = net(), torch.randn(64, 3, 32, 32)
    for budget in ("macs=75%", "macs=50%"):
        models = {"whole": (model, x[:1])}
        for multiple in (1, 8, 16):
            plan = mipp.plan(model, [x], budget, method="l2", round_to=multiple, progress=False)
            models[f"round_to={multiple}"] = plan.apply(refit=False), x[:1]
        print(budget)
        compare(models)
    images = torch.randn(1, 64, 32, 32)
    layers = {
        f"{n_in} to {n_out}": (nn.Conv2d(n_in, n_out, 3, 1, 1).eval(), images[:, :n_in].clone())
        for n_in, n_out in [
            (64, 64), (64, 63), (64, 56), (64, 49), (64, 48), (64, 33), (64, 32),
            (63, 64), (56, 64), (49, 64), (48, 64), (33, 64), (32, 64),
        ]
    }  # fmt: skip
    print("one convolution")
    compare(layers)


if __name__ == "__main__":
    main()
