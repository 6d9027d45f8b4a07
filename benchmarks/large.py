"""Large transformers: what it takes to find their groups and to plan their neurons, in passes.

    python benchmarks/large.py       # needs the extra: pip install 'torch-mipp[transformers]'

BERT-base and ViT-B/16, and a language model of 1.1 billion parameters with grouped queries (in
bfloat16), built by `transformers` from their configs with random weights. Each is measured in a
process of its own, on one thread, in processor seconds: one forward pass over the examples, the
trace alone (`mipp.graph.trace`), and all that `mipp inspect` does (trace, and the trial of a sliced
copy). Memory is the highest that the process held beyond the model and its first forward pass.

    python benchmarks/large.py --plan

plans half of the neurons of all MLPs (heads are protected) from 16,384 tokens, with relative noise,
next to one pass over the same examples without gradients; on all threads, in seconds, so nothing
else should run. ``memory`` is that option of `mipp.plan`: the bytes that second moments may take.
"""

import json
import math
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import transformers
from common import Records, arguments, table

import mipp
from mipp import graph, statistics
from mipp.planning import prunable_graph

GIB = 2**20  # ru_maxrss is in KiB
TOKENS, LENGTH = 16_384, 128
BATCH = 8
HEADS = ("*att*",)


def bert(n: int) -> tuple[torch.nn.Module, list[dict[str, torch.Tensor]]]:
    """12 layers, 768 wide."""
    model = transformers.BertForMaskedLM(transformers.BertConfig())
    return model, tokens(1000, n)


def vit(n: int) -> tuple[torch.nn.Module, list[dict[str, torch.Tensor]]]:
    """12 layers, 768 wide, patches of 16 x 16."""
    model = transformers.ViTForImageClassification(transformers.ViTConfig(num_labels=1000))
    n = n if n <= BATCH else math.ceil(TOKENS / 197)  # patches, and the token of the class
    starts = range(0, n, BATCH)
    return model, [{"pixel_values": torch.randn(min(BATCH, n - s), 3, 224, 224)} for s in starts]


def grouped_queries(n: int) -> tuple[torch.nn.Module, list[dict[str, torch.Tensor]]]:
    """16 layers, 2048 wide, 32 query heads over 8 key and value heads, 8192 gated neurons."""
    config = transformers.LlamaConfig(
        vocab_size=32000, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
        num_attention_heads=32, num_key_value_heads=8,
    )  # fmt: skip
    torch.set_default_dtype(torch.bfloat16)
    model = transformers.LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    return model, tokens(32000, n)


def tokens(vocabulary: int, n: int) -> list[dict[str, torch.Tensor]]:
    """``n`` texts: two of 32 tokens, or batches of texts of 128."""
    length = 32 if n <= BATCH else LENGTH
    texts = torch.randint(3, vocabulary, (n, length)).split(BATCH)
    return [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in texts]


Case = Callable[[int], tuple[torch.nn.Module, list[dict[str, torch.Tensor]]]]
CASES: dict[str, Case] = {
    "BERT-base": bert,
    "ViT-B/16": vit,
    "1.1 B, grouped queries": grouped_queries,
}
WORK = ("trace", "inspect")
MEMORY = {"BERT-base": "1GiB", "ViT-B/16": "1GiB", "1.1 B, grouped queries": "4GiB"}


def child(case: str, work: str) -> None:
    """One measurement, in this process; prints it."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, (example,) = CASES[case](2)
    model.eval()
    with torch.no_grad():
        model(**example)  # what is loaded on first use is there
        started = time.process_time()
        model(**example)
        forward = time.process_time() - started
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    if work == "trace":
        found = graph.trace(model, (), example)
    else:
        found = prunable_graph(model, statistics.read_batches([example], None))
    seconds = time.process_time() - started
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(
        json.dumps(
            {
                "parameters": sum(p.numel() for p in model.parameters()),
                "model_gib": sum(p.numel() * p.element_size() for p in model.parameters()) / 2**30,
                "forward": forward,
                "seconds": seconds,
                "gib": held / GIB,
                "groups": len(found.groups),
                "units": dict(Counter(str(group.n_units) for group in found.groups)),
                "refused": len(found.refused),
            }
        )
    )


def planned(case: str, memory: str) -> None:
    """One plan of all MLPs next to one pass over the same examples, in this process; prints it."""
    torch.manual_seed(0)
    model, batches = CASES[case](TOKENS // LENGTH)
    model.eval()
    with torch.no_grad():
        model(**batches[0])
        started = time.perf_counter()
        for batch in batches:
            model(**batch)
        forward = time.perf_counter() - started
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    plan = mipp.plan(
        model, batches, "units=50%", protect=HEADS, allocation="uniform", noise=0.1, memory=memory
    )
    seconds = time.perf_counter() - started
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    mlps = [row for row in plan.summary if row.units_after < row.units_before]
    print(
        json.dumps(
            {
                "parameters": sum(p.numel() for p in model.parameters()),
                "model_gib": sum(p.numel() * p.element_size() for p in model.parameters()) / 2**30,
                "forward": forward,
                "seconds": seconds,
                "gib": held / GIB,
                "stages": plan.seconds,
                "groups": len(mlps),
                "units": [mlps[0].units_before, mlps[0].units_after],
                "threads": torch.get_num_threads(),
            }
        )
    )


def measure(case: str, work: str) -> dict[str, Any]:
    """One measurement in a process of its own."""
    command = [sys.executable, __file__, "--child", case, work]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def show_plans(rows: Sequence[dict[str, Any]]) -> None:
    """A row for each model."""
    lines = []
    for row in rows:
        stages = ", ".join(f"{name} {seconds:.0f}" for name, seconds in row["stages"].items())
        before, after = row["units"]
        lines.append(
            [
                row["case"], f"{row['groups']} x {before} → {after}", row["memory"],
                f"{row['forward']:.0f}", f"{row['seconds']:.0f} ({stages})",
                f"{row['seconds'] / row['forward']:.1f}", f"{row['gib']:.1f}",
                f"{row['gib'] / row['model_gib']:.1f}",
            ]
        )  # fmt: skip
    header = ("model", "neurons", "memory=", "pass (s)", "plan (s)", "passes", "GiB", "models")
    print(table(header, lines))


def show(rows: Sequence[dict[str, Any]]) -> None:
    """A row for each model and work."""
    lines = []
    for row in rows:
        units = ", ".join(f"{n} of {size}" for size, n in sorted(row["units"].items()))
        lines.append(
            [
                row["case"], row["work"], f"{row['parameters'] / 1e6:,.0f} M",
                f"{row['groups']} ({units})", str(row["refused"]), f"{row['seconds']:.1f}",
                f"{row['seconds'] / row['forward']:.0f}", f"{row['gib']:.1f}",
                f"{row['gib'] / row['model_gib']:.1f}",
            ]
        )  # fmt: skip
    header = (
        "model", "work", "parameters", "groups (of units)", "refusals", "seconds",
        "forward passes", "GiB", "models",
    )  # fmt: skip
    print(table(header, lines))


def main() -> None:
    """Measures what is missing, then prints the tables."""
    if sys.argv[1:2] == ["--child"]:
        case, work = sys.argv[2:]
        if work in WORK:
            child(case, work)
        else:
            planned(case, work)
        return
    parser = arguments(__doc__ or "")
    parser.add_argument("--plan", action="store_true", help="plan the neurons of the MLPs")
    options = parser.parse_args()
    records = Records("large")
    if not options.show:
        for case in CASES:
            if options.plan:
                cell = {"case": case, "work": "plan", "memory": MEMORY[case]}
                records.measure(cell, partial(measure, case, MEMORY[case]))
                continue
            for work in WORK:
                records.measure({"case": case, "work": work}, partial(measure, case, work))
    show([row for row in records.rows if row["work"] in WORK])
    show_plans([row for row in records.rows if row["work"] == "plan"])


if __name__ == "__main__":
    main()
