"""Groups of large transformers: seconds and memory until they are known, next to a forward pass.

    python benchmarks/large.py       # needs the extra: pip install 'torch-mipp[transformers]'

BERT-base and ViT-B/16, and a language model of 1.1 billion parameters with grouped queries (in
bfloat16), built by `transformers` from their configs with random weights. Each is measured in a
process of its own, on one thread, in processor seconds: one forward pass over the examples, the
trace alone (`mipp.graph.trace`), and all that `mipp inspect` does (trace, and the trial of a sliced
copy). Memory is the highest that the process held beyond the model and its first forward pass.
"""

import json
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import transformers
from common import Records, arguments, table

from mipp import capture, graph
from mipp.pipeline import usable_graph

GIB = 2**20  # ru_maxrss is in KiB


def bert() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """12 layers, 768 wide."""
    model = transformers.BertForMaskedLM(transformers.BertConfig())
    return model, tokens(1000)


def vit() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """12 layers, 768 wide, patches of 16 x 16."""
    model = transformers.ViTForImageClassification(transformers.ViTConfig(num_labels=1000))
    return model, {"pixel_values": torch.randn(2, 3, 224, 224)}


def grouped_queries() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """16 layers, 2048 wide, 32 query heads over 8 key and value heads, 8192 gated neurons."""
    config = transformers.LlamaConfig(
        vocab_size=32000, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
        num_attention_heads=32, num_key_value_heads=8,
    )  # fmt: skip
    torch.set_default_dtype(torch.bfloat16)
    model = transformers.LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    return model, tokens(32000)


def tokens(vocabulary: int) -> dict[str, torch.Tensor]:
    """Two texts of 32 tokens."""
    ids = torch.randint(3, vocabulary, (2, 32))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


CASES: dict[str, Callable[[], tuple[torch.nn.Module, dict[str, torch.Tensor]]]] = {
    "BERT-base": bert,
    "ViT-B/16": vit,
    "1.1 B, grouped queries": grouped_queries,
}
WORK = ("trace", "inspect")


def child(case: str, work: str) -> None:
    """One measurement, in this process; prints it."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, example = CASES[case]()
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
        found = usable_graph(model, capture.read_batches([example], None))
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


def measure(case: str, work: str) -> dict[str, Any]:
    """One measurement in a process of its own."""
    command = [sys.executable, __file__, "--child", case, work]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def show(records: Records) -> None:
    """A row for each model and work."""
    lines = []
    for row in records.rows:
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
    """Measures what is missing, then prints the table."""
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3])
        return
    options = arguments(__doc__ or "").parse_args()
    records = Records("large")
    if not options.show:
        for case in CASES:
            for work in WORK:
                records.measure({"case": case, "work": work}, partial(measure, case, work))
    show(records)


if __name__ == "__main__":
    main()
