"""Time the Python of guides, as a new user runs it: from top to bottom, in an empty folder.

    python scripts/time_guides.py                        # all guides whose code runs as it stands
    python scripts/time_guides.py image-classifier.md

Uses the mipp that is installed. Prints a row for each guide: processor seconds, which count what
other work on the machine does not take, and seconds by the clock.
"""

import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GUIDES = Path(__file__).resolve().parent.parent / "docs" / "guides"
RUN_AS_THEY_STAND = (
    "image-classifier.md", "language-model.md", "latency.md", "single-weights.md", "iterative.md",
    "several-processes.md", "own-op-or-layer.md", "own-method.md",
)  # fmt: skip
BLOCK = re.compile(
    r"(?P<not_run>^<!-- not run: [^\n]+ -->\n+)?^```python\n(?P<code>.*?)^```$", re.M | re.S
)


def main(names: list[str]) -> int:
    """Run the guides that are named, or all; the exit status."""
    print("| guide | processor, s | clock, s |\n|---|---|---|")
    for name in names or RUN_AS_THEY_STAND:
        text = (GUIDES / name).read_text()
        code = "\n".join(m["code"] for m in BLOCK.finditer(text) if not m["not_run"])
        used, clock = processor(), time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "guide.py").write_text(code)
            command = [sys.executable, "guide.py"]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            print(done.stderr, file=sys.stderr)
            return 1
        took = processor() - used, time.perf_counter() - clock
        print(f"| {name} | {took[0]:.0f} | {took[1]:.0f} |", flush=True)
    return 0


def processor() -> float:
    """Processor seconds of all processes that were started and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
