"""Pruned Hugging Face models in folders, as `save_pretrained` and `from_pretrained` have them.

A folder is what the model's own ``save_pretrained`` writes, with a config that follows the widths
wherever all layers have the same, and ``mipp.json`` beside it: which units are left, and what the
config cannot say. Where it says everything, the folder is an ordinary checkpoint.
"""

import json
import re
import shutil
import uuid
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from mipp.checks import checked
from mipp.errors import FileError, InputError, SurgeryError
from mipp.integrations.transformers_config import Change, Followed, follow, unlike_blocks
from mipp.integrations.transformers_record import FILE, cut_class, read_record, record_of
from mipp.surgery import installed_version, recorded_blocks
from mipp.surgery.file_record import ADVICE
from mipp.surgery.kept_record import recorded_axes
from mipp.tracing.guards import unwrap

_TOKENIZER = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt",
    "*.model", "chat_template*", "*processor_config.json", "normalizer.json",
)  # fmt: skip
"""Files of tokenizers, and of what prepares images and sounds."""


@dataclass(frozen=True)
class SavedFolder:
    """What `save_pretrained` wrote.

    Attributes:
        folder: Where.
        ordinary: Whether the config says everything, so that plain ``from_pretrained`` of
            transformers, and every server, loads the folder.
        changes: Numbers of the config that follow the widths.
        why: What the config cannot say, and why; empty for an ordinary checkpoint.
    """

    folder: Path
    ordinary: bool
    changes: tuple[Change, ...]
    why: str = ""

    def __str__(self) -> str:
        lines = [f"{self.folder}: {'an ordinary checkpoint' if self.ordinary else self.why}"]
        return "\n".join([*lines, *(f"config: {change}" for change in self.changes)])


@checked
def save_pretrained(
    model: nn.Module, folder: str | Path, tokenizer: Any = None, **options: Any
) -> SavedFolder:
    """Writes a Hugging Face model, pruned or not, into a folder that needs no code to be read.

    Config, generation config and weights (safetensors, in parts if they are large) are written by
    the model's own ``save_pretrained``; the config follows the widths where all layers have the
    same. With ``allocation="kinds"`` of `mipp.plan` they have, and the folder is then usually an
    ordinary checkpoint. Where the config cannot say the widths, plain ``from_pretrained`` of
    transformers fails, since shapes differ, and `from_pretrained` of this module reads the folder.
    The files appear once all are written.

    Args:
        model: A model of transformers, pruned or not. The model and its config stay as they are.
        folder: Made if it is not there. Weights of an earlier model in it are replaced.
        tokenizer: Or processor, saved into the folder. Without one, its files are copied from the
            folder that the model was loaded from, if there is one.
        **options: Of the model's ``save_pretrained``, such as ``max_shard_size``.

    Raises:
        InputError: It is no model of transformers, or an adapter is inside; or layers are gone
            in a way that no config of the class can say.
        FileError: The folder cannot be written.

    Warns:
        UserWarning: If the config cannot say the widths; the text says why.

    Examples:
        >>> import tempfile, torch, transformers, mipp
        >>> config = transformers.BertConfig(
        ...     vocab_size=30, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        ...     num_attention_heads=4,
        ... )
        >>> model = transformers.BertForMaskedLM(config)
        >>> texts = [{"input_ids": torch.randint(30, (8, 6))}]
        >>> plan = mipp.plan(model, texts, {"*.intermediate*": "units=25%"}, method="l2")
        >>> folder = tempfile.mkdtemp()
        >>> saved = save_pretrained(plan.apply(refit=False), folder)
        >>> saved.ordinary, str(saved.changes[0])
        (True, 'intermediate_size 32 -> 8')
    """
    own: Any = _checked_model(model)
    followed = follow(own, own.config)
    why = "" if not followed.differences else _why(followed, own)
    record = record_of(own, followed)
    _check_blocks(own, followed)
    config = followed.config
    if why:
        config.mipp = {"load_with": f"{__name__}.from_pretrained", "version": installed_version()}
    elif hasattr(config, "mipp"):
        del config.mipp
    before = own.config
    try:
        with _whole_folder(Path(folder)) as partial:
            try:
                own.config = config
                own.save_pretrained(partial, **options)
            finally:
                own.config = before
            _add_tokenizer(own, tokenizer, partial)
            text = json.dumps(asdict(record), allow_nan=False)
            (partial / FILE).write_text(text)
    except OSError as error:
        raise FileError(
            f"{folder} cannot be written: {error}. Expected a folder, or a name for one, with room "
            "and permission to write."
        ) from error
    if why:
        warnings.warn(f"{folder} is no ordinary checkpoint: {why}", stacklevel=3)
    return SavedFolder(Path(folder), not why, followed.changes, why)


@checked
def from_pretrained(folder: str | Path, **options: Any) -> Any:
    """The model that `save_pretrained` has written, in eval mode.

    The class is the one of transformers that the config names; no code in the folder is run.

    Args:
        folder: Written by `save_pretrained`. Any other checkpoint of transformers is read, too.
        **options: Of transformers' ``from_pretrained``, such as ``dtype`` or ``device_map``.

    Raises:
        FileError: There is no such folder, it is damaged, or its class is none of transformers.

    Examples:
        >>> import tempfile, transformers
        >>> config = transformers.BertConfig(
        ...     vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=4
        ... )
        >>> folder = tempfile.mkdtemp()
        >>> _ = save_pretrained(transformers.BertForMaskedLM(config), folder)
        >>> type(from_pretrained(folder)).__name__
        'BertForMaskedLM'
    """
    import transformers

    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise FileError(
            f"{folder} has no config.json; expected a folder that "
            "mipp.integrations.transformers.save_pretrained has written."
        )
    config = transformers.AutoConfig.from_pretrained(folder)
    record = read_record(folder)
    if record is None and hasattr(config, "mipp"):
        raise FileError(
            f"{folder} has a model whose widths its config cannot say, and no {FILE}. Copy that "
            "file from the folder that mipp wrote, or save the model again."
        )
    named = next(iter(config.architectures or ()), "") if record is None else record.model
    kind = getattr(transformers, named, None)
    if kind is None:
        raise FileError(
            f"{folder} has a model of the class {named!r}, which transformers "
            f"{transformers.__version__} does not have. Install a version that has it; for a class "
            "of your own use mipp.save and mipp.load."
        )
    config.mipp = None
    del config.mipp
    try:
        cut = kind if record is None else cut_class(kind, record)
        model, info = cut.from_pretrained(
            folder, config=config, **options | {"output_loading_info": True}
        )
    except (InputError, SurgeryError, RuntimeError, OSError) as error:
        raise FileError(f"{folder} cannot be read: {error}") from error
    if info["missing_keys"]:
        raise FileError(
            f"{folder} is damaged: it lacks the weights {_some(sorted(info['missing_keys']))}. "
            f"{ADVICE}"
        )
    model.__class__ = kind
    if record is not None:
        record.note_on(model)
    return model.eval()


def _checked_model(model: nn.Module) -> Any:
    """The model without wrappers, once it is known to be one that can be written."""
    found: Any = unwrap(model)
    kind = type(found)
    if hasattr(found, "peft_config") or kind.__module__.startswith("peft."):
        raise InputError(
            f"{kind.__name__} has an adapter inside; expected a model whose weights are its own. "
            "Merge it first, with model.merge_and_unload()."
        )
    if not kind.__module__.startswith("transformers.") or not hasattr(found, "config"):
        raise InputError(
            f"{kind.__name__} of {kind.__module__} was given; expected a model that transformers "
            "itself defines, which from_pretrained can find. Use mipp.save and mipp.load, which "
            "take what builds the model."
        )
    return found


def _check_blocks(model: nn.Module, followed: Followed) -> None:
    """Raises `InputError` where layers are others than a config with fewer of them builds."""
    if not recorded_blocks(model):
        return
    unlike = list(unlike_blocks(model, followed.config, followed.differences.keys()))
    if unlike:
        raise InputError(
            f"layers of this {type(model).__name__} are gone, and the others are not those that a "
            f"config with fewer builds: {_some(unlike)}. Use mipp.save and mipp.load; or take "
            "layers out in pairs, with protect= for the others."
        )


def _why(followed: Followed, model: nn.Module) -> str:
    """What the config cannot say, in words."""
    layers: dict[str, dict[int, set[int]]] = {}
    for axis in recorded_axes(model):
        if (axis.tensor, axis.dim) in followed.differences:
            name = re.sub(r"\.\d+(?=\.)", ".*", axis.tensor.rpartition(".")[0])
            layers.setdefault(name, {}).setdefault(axis.size, set()).add(len(axis.kept))
    config = type(followed.config).__name__
    several = [
        f"{name} {min(lengths)} to {max(lengths)} of {size}"
        for name, widths in layers.items()
        for size, lengths in widths.items()
        if len(lengths) > 1
    ]
    if several:
        why = (
            f"its layers have different widths ({_some(several)}), and {config} has one number for "
            'all of them. Plan with allocation="kinds" for one width in all layers of a kind'
        )
    elif followed.tried and all("att" in name.lower() for name in layers):
        said = "the size of a head follows from their number there"
        if followed.refusals:
            said = f"{followed.refusals[-1].rstrip('.')}. Keep another number of them, with widths="
        changes = _some(map(str, followed.tried))
        why = f"{config} cannot say that heads are gone ({changes}): {said}"
    else:
        why = f"{config} has no number for the width of {_some(layers or _owners(followed))}"
    return f"{why}. Load it with {__name__}.from_pretrained."


def _some(items: Iterable[str]) -> str:
    listed = list(items)
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    return ", ".join(listed[:3]) + more


def _owners(followed: Followed) -> list[str]:
    return [f"{owner}.{place}".rstrip(".") for owner, place in followed.differences]


def _add_tokenizer(model: Any, tokenizer: Any, folder: Path) -> None:
    """Saves the tokenizer, or copies its files from where the model came from."""
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
        return
    source = Path(
        str(getattr(model.config, "name_or_path", "") or getattr(model, "name_or_path", "")) or "."
    )
    if source == Path() or not source.is_dir():
        return
    for pattern in _TOKENIZER:
        for file in source.glob(pattern):
            if file.is_file():
                shutil.copyfile(file, folder / file.name)


@contextmanager
def _whole_folder(folder: Path) -> Iterator[Path]:
    """Yields an empty folder beside ``folder``; its files move there once all are written."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.partial")
    partial.mkdir()
    try:
        yield partial
        folder.mkdir(exist_ok=True)
        written = {file.name for file in partial.iterdir()}
        for old in folder.glob("model*.safetensors*"):
            if old.name not in written:
                old.unlink()  # of an earlier model
        for file in sorted(partial.iterdir(), key=lambda one: one.name == FILE):
            file.replace(folder / file.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
