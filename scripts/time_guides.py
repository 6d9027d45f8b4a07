"""Time the code of guides, as a new user runs it: from top to bottom, in an empty folder.

    OMP_NUM_THREADS=1 python scripts/time_guides.py                  # all guides of the list
    OMP_NUM_THREADS=1 python scripts/time_guides.py command-line.md

Uses the mipp that is installed, and for some guides the packages that they are about. Of most
guides the Python is run as one script; of those that have commands, the files are written and the
commands run. Prints a row for each guide: processor seconds, which count what other work on the
machine does not take, and seconds by the clock.
"""

import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GUIDES = Path(__file__).resolve().parent.parent / "docs" / "guides"
TIMED = (
    "image-classifier.md", "language-model.md", "latency.md", "depth.md", "single-weights.md",
    "iterative.md", "several-processes.md", "own-op-or-layer.md", "own-method.md",
    "command-line.md", "hugging-face.md", "pruning-while-training.md", "quantize-and-export.md",
)  # fmt: skip
BLOCK = re.compile(
    r"(?P<not_run>^<!-- not run: [^\n]+ -->\n+)?^```(?P<language>python|bash)\n(?P<code>.*?)^```$",
    re.M | re.S,
)
FILE = re.compile(r"save\s+this\s+as\s+`(?P<name>\w+\.py)`", re.I)


def main(names: list[str]) -> int:
    """Run the guides that are named, or all; the exit status."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    print("| guide | processor, s | clock, s |\n|---|---|---|")
    for name in names or TIMED:
        files = written((GUIDES / name).read_text())
        used, clock = processor(), time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            for file, text in files.items():
                Path(folder, file).write_text(text)
            done = subprocess.run(
                ["/bin/sh", "-e", "guide.sh"],
                cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True,
                check=False,
            )  # fmt: skip
        if done.returncode:
            print(done.stderr, file=sys.stderr)
            return 1
        took = processor() - used, time.perf_counter() - clock
        print(f"| {name} | {took[0]:.0f} | {took[1]:.0f} |", flush=True)
    return 0


def written(page: str) -> dict[str, str]:
    """Files by name that a reader of the page writes; ``guide.sh`` runs them."""
    named, script, commands, end = {}, [], [], 0
    of_commands = FILE.search(page) is not None
    for block in BLOCK.finditer(page):
        before, end = " ".join(page[end : block.start()].split()), block.end()
        if block["not_run"]:
            continue
        if block["language"] == "bash":
            commands += [block["code"]] if of_commands else []
        elif file := FILE.search(before):
            named[file["name"]] = block["code"]
            if f"`python {file['name']}`" in before:
                commands.append(f"python {file['name']}\n")
        else:
            script.append(block["code"])
    if script:
        named["guide.py"] = "\n".join(script)
        commands.append("python guide.py\n")
    return named | {"guide.sh": "".join(commands)}


def processor() -> float:
    """Processor seconds of all processes that were started and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
