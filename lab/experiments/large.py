"""Large transformers: what it takes to find their groups and to plan their neurons, in passes.

    python -m lab run large    # needs the extra: pip install -e '.[transformers]'

BERT-base and ViT-B/16, and a language model of 1.1 billion parameters with grouped queries (in
bfloat16), built by `transformers` from their configs with random weights. Each is measured in a
process of its own, on one thread, in processor seconds: one forward pass over the examples, the
trace alone (`mipp.graph.trace`), and all that `mipp inspect` does (trace, and the trial of a sliced
copy). Memory is the highest that the process held beyond the model and its first forward pass.

The work *plan* (``--only work=plan``) plans half of the neurons of all MLPs (heads are protected)
from 16,384 tokens, with relative noise, next to one pass over the same examples without gradients;
on all threads, in seconds, so nothing else should run. ``memory`` is that option of `mipp.plan`:
the bytes that second moments may take.
"""

import math
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch

import mipp
from lab.experiment import Experiment, Key, Rows, Settings
from lab.tables import TextTable
from mipp import graph, statistics
from mipp.planning import prunable_graph

GIB = 2**20  # ru_maxrss is in KiB
TOKENS, LENGTH = 16_384, 128
BATCH = 8
HEADS = ("*att*",)


def bert(n: int) -> tuple[torch.nn.Module, list[dict[str, torch.Tensor]]]:
    """12 layers, 768 wide."""
    import transformers  # noqa: PLC0415 - an extra

    model = transformers.BertForMaskedLM(transformers.BertConfig())
    return model, tokens(1000, n)


def vit(n: int) -> tuple[torch.nn.Module, list[dict[str, torch.Tensor]]]:
    """12 layers, 768 wide, patches of 16 x 16."""
    import transformers  # noqa: PLC0415 - an extra

    config = transformers.ViTConfig(num_labels=1000)  # type: ignore[call-arg]
    model = transformers.ViTForImageClassification(config)
    n = n if n <= BATCH else math.ceil(TOKENS / 197)  # patches, and the token of the class
    starts = range(0, n, BATCH)
    return model, [{"pixel_values": torch.randn(min(BATCH, n - s), 3, 224, 224)} for s in starts]


def grouped_queries(n: int) -> tuple[torch.nn.Module, list[dict[str, torch.Tensor]]]:
    """16 layers of `llama`."""
    return llama(16, 32000), tokens(32000, n)


def llama(n_layers: int, vocabulary: int) -> torch.nn.Module:
    """2048 wide, 32 query heads over 8 key and value heads, 8192 gated neurons, in bfloat16."""
    import transformers  # noqa: PLC0415 - an extra

    config = transformers.LlamaConfig(
        vocab_size=vocabulary, hidden_size=2048, intermediate_size=8192,
        num_hidden_layers=n_layers, num_attention_heads=32, num_key_value_heads=8,
    )  # fmt: skip
    torch.set_default_dtype(torch.bfloat16)
    model = transformers.LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    return model


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


def understood(case: str, work: str) -> dict[str, Any]:
    """Trace or inspection of one model."""
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
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "model_gib": sum(p.numel() * p.element_size() for p in model.parameters()) / 2**30,
        "forward": forward,
        "seconds": seconds,
        "gib": held / GIB,
        "groups": len(found.groups),
        "units": dict(Counter(str(group.n_units) for group in found.groups)),
        "refused": len(found.refused),
    }


def planned(case: str, memory: str) -> dict[str, Any]:
    """One plan of all MLPs next to one pass over the same examples."""
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
    return {
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


def plans_table(rows: Rows) -> TextTable:
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
    return TextTable("", header, lines)


def works_table(rows: Rows) -> TextTable:
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
    return TextTable("", header, lines)


def items(_settings: Settings) -> Iterator[Key]:
    """Trace and inspection of each model, then the plans."""
    yield from ({"case": case, "work": work} for case in CASES for work in WORK)
    yield from ({"case": case, "work": "plan", "memory": MEMORY[case]} for case in CASES)


def measure(key: Key, _settings: Settings) -> dict[str, Any]:
    """One model and work."""
    if key["work"] == "plan":
        return planned(key["case"], key["memory"])
    return understood(key["case"], key["work"])


def tables(rows: Rows) -> Iterator[TextTable]:
    """What it takes to find the groups, and to plan."""
    yield works_table([row for row in rows if row["work"] in WORK])
    yield plans_table([row for row in rows if row["work"] == "plan"])


EXPERIMENT = Experiment(
    name="large",
    title="Large transformers: what it takes to find their groups and to plan their neurons",
    items=items,
    measure=measure,
    tables=tables,
    isolated=True,
)
