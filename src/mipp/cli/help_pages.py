"""What stands below the options on each page of help: examples, where the docs are, exit codes."""

GUIDE = "Docs: docs/guides/command-line.md in the repository of torch-mipp; README.md lists all."
EXIT_CODES = (
    "Exit codes: 0 all went well; 1 an error, or a failed check of the demo, that the message "
    "explains; 2 wrong usage; 70 a bug in mipp or in code that was given to it; 130 interrupted."
)

EXAMPLES: dict[str, tuple[str, ...]] = {
    "mipp": (
        "mipp demo",
        "mipp inspect -m timm:resnet18",
        "mipp prune -m hf:FOLDER -d text:FILE -b macs=50% -o small.safetensors",
        "mipp --install-completion",
    ),
    "inspect": (
        "mipp inspect -m resnet20",
        "mipp inspect -m hf:FOLDER --residual",
        "mipp inspect -m mine:Net --input 3,64,64",
    ),
    "prune": (
        "mipp prune -m timm:resnet18 -w net.pt -d images:photos -b macs=50%",
        "mipp prune -m mine:Net -w net.pt -d mine:batches -b params=30%",
        "mipp prune -m hf:FOLDER -d text:FILE -b macs=70% -o small.safetensors",
    ),
    "methods": ("mipp methods", "mipp methods --json"),
    "eval": (
        "mipp eval -m lenet5 -w small.safetensors -d mnist",
        "mipp eval -m hf:FOLDER -d text:FILE --input 256",
        "mipp eval -m torchvision:resnet18 --pretrained -d images:imagenet/val",
    ),
    "export": ("mipp export -m lenet5 -w small.safetensors --onnx small.onnx",),
    "train": (
        "mipp train -m lenet5 -d mnist -o lenet5.safetensors",
        "mipp train -m timm:resnet18 -d images:photos --epochs 5 -o net.safetensors",
    ),
    "demo": ("mipp demo --out demo",),
}
"""Command -> lines that can be typed as they are, but for the names of files."""


def below(command: str) -> str:
    """The paragraphs below the options of a command."""
    return "\n\n".join(["Examples:", *(f"  {e}" for e in EXAMPLES[command]), GUIDE, EXIT_CODES])
