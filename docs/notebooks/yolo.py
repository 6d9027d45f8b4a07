# %% [markdown]
# # YOLO
#
# Prune a detector of ultralytics and train it on. To need no download, YOLOv8n starts from random
# weights, and learns to find circles and squares in images that are drawn here. With weights of
# your own, write `YOLO("best.pt")` and your data set.
#
# It needs the package ultralytics.

# %%
import os
from pathlib import Path

os.environ["YOLO_VERBOSE"] = "false"  # it prints much

import cv2
import matplotlib.pyplot as plt
import numpy as np
import torch
from ultralytics import YOLO

import mipp
from mipp.integrations import ultralytics as prunable

draw = np.random.default_rng(0)


def scene(folder, number, size=64):
    """One image with one to three shapes, and its boxes in the format of YOLO."""
    image, boxes = draw.integers(0, 60, (size, size, 3), dtype=np.uint8), []
    for left in draw.permutation(3)[: draw.integers(1, 4)] * 21:
        kind, half = int(draw.integers(2)), int(draw.integers(6, 10))
        x, y = int(left) + 10, int(draw.integers(half, size - half))
        color = [int(value) for value in draw.integers(120, 255, 3)]
        if kind:
            cv2.rectangle(image, (x - half, y - half), (x + half, y + half), color, -1)
        else:
            cv2.circle(image, (x, y), half, color, -1)
        boxes.append(f"{kind} {x / size} {y / size} {2 * half / size} {2 * half / size}")
    cv2.imwrite(str(folder / "images" / f"{number}.png"), image)
    (folder / "labels" / f"{number}.txt").write_text("\n".join(boxes))


for part, count in (("train", 640), ("val", 64)):
    for kind in ("images", "labels"):
        Path("shapes", part, kind).mkdir(parents=True)
    for number in range(count):
        scene(Path("shapes", part), number)
Path("shapes.yaml").write_text(
    f"path: {Path('shapes').resolve()}\ntrain: train/images\nval: val/images\n"
    "names: {0: circle, 1: square}\n"
)

# %% [markdown]
# ## Train at full size

# %%
settings = {
    "data": "shapes.yaml", "imgsz": 64, "batch": 16, "workers": 0, "device": "cpu", "seed": 0,
    "plots": False, "verbose": False, "exist_ok": True, "project": str(Path("runs").resolve()),
}  # fmt: skip


def quality(yolo):
    """Mean average precision at an overlap of a half, in percent."""
    return 100 * yolo.val(**settings).box.map50


torch.manual_seed(0)
yolo = YOLO("yolov8n.yaml")
yolo.train(epochs=8, optimizer="AdamW", lr0=2e-3, mosaic=0, **settings)
whole = yolo.model
print(f"mAP50 {quality(yolo):.1f} %")

# %% [markdown]
# ## Plan
#
# A plan measures what the outputs depend on. A YOLO in evaluation mode returns its predictions and
# the feature maps that they come from; `prunable.predictions` picks the first. It also puts them on
# scales on which errors of one size are equally bad. Boxes are in tenths of their size, and classes
# on a scale where equal steps are equally easy to notice.

# %%
images = prunable.calibration_images(yolo, "shapes.yaml", samples=640, imgsz=64)
plans = {
    "mipp": mipp.plan(whole, images, "macs=50%", outputs=prunable.predictions),
    "l2": mipp.plan(whole, images, "macs=50%", outputs=prunable.predictions, method="l2"),
}
before = plans["l2"].before
print(f"whole {before.macs / 1e6:.1f} M MACs, {before.params:,} parameters")
for name, plan in plans.items():
    print(f"{name:5} {plan.after.macs / 1e6:.1f} M MACs, {plan.after.params:,} parameters")
print("stays:", *(refusal.name for refusal in plans["l2"].refused))

# %% [markdown]
# Which parts lost what? Shown are the layers of the YAML file in their order: a backbone (0 to 9),
# a neck (10 to 21) and the head (22). The head has branches for boxes (`cv2`) and classes (`cv3`).

# %%
_, axes = plt.subplots()
for (name, plan), color in zip(plans.items(), ("#3f51b5", "#e08a3c"), strict=True):
    stages = {}
    for row in reversed(plan.summary):
        _, stage, part = row.name.split(".")[:3]
        stage = f"{stage} {part}" if stage == "22" else stage
        was, left = stages.get(stage, (0, 0))
        stages[stage] = (was + row.units_before, left + row.units_after)
    order = sorted(stages, key=lambda stage: int(stage.split()[0]))
    shares = [100 * stages[stage][1] / stages[stage][0] for stage in order]
    axes.plot(order, shares, "o-", color=color, label=name)
axes.set(title="Channels that stay, by layer of the YAML file", ylabel="%", ylim=(0, 100))
axes.tick_params(axis="x", labelsize=7)
axes.legend(frameon=False)

# %% [markdown]
# ## Prune, validate, train on
#
# `yolo.train()` on its own builds the whole model again. The trainer of mipp trains the small one.

# %%
small = {}
print("mAP50, %  at once  trained on")
for name, plan in plans.items():
    small[name] = YOLO("yolov8n.yaml")
    small[name].model = plan.apply()
    at_once = quality(small[name])
    trainer = prunable.trainer(small[name])
    small[name].train(trainer=trainer, epochs=2, optimizer="AdamW", lr0=5e-4, mosaic=0, **settings)
    print(f"{name:8} {at_once:8.1f} {quality(small[name]):11.1f}")

# %% [markdown]
# Pruned detectors that are better than the whole one are a sign that it was trained too briefly,
# and no merit of pruning: a refit fits the norms again, too. This is one network and 64 validation
# images of drawn shapes. It shows the way, not how much your detector will lose.
#
# ## Save, load, predict

# %%
prunable.save(small["mipp"], "small.safetensors")
same = prunable.load("small.safetensors")
picture = cv2.imread("shapes/val/images/0.png")
result = same.predict(picture, imgsz=64, verbose=False)[0]
_, axes = plt.subplots(figsize=(3, 3))
axes.imshow(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
for box, kind in zip(result.boxes.xyxy.numpy(), result.boxes.cls.int().tolist(), strict=True):
    x, y, right, bottom = box
    axes.add_patch(plt.Rectangle((x, y), right - x, bottom - y, fill=False, color="white"))
    axes.text(x, y - 1, same.names[kind], color="white")
axes.axis("off")
axes.set_title("What the small detector finds")

# %% [markdown]
# `same.export(format="onnx")` exports it as any YOLO. [The guide](../guides/yolo.md) has more:
# resuming, other tasks, and what was tried.
