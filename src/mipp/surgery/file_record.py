"""The record in a file of a pruned model, beside the weights; reading both."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mipp.errors import FileError, InputError
from mipp.origin import Applied, Source
from mipp.surgery.block_names import RemovedBlock
from mipp.surgery.keeps import AttributeKeep, AxisKeep
from mipp.surgery.record import first_problem
from mipp.surgery.weight_files import read_safetensors, unpack

FORMAT = 1
"""Version of what is written under ``mipp``."""
PACKED = 2
"""The same of files in which tensors with many zeros are packed; others stay readable as before."""
THINNED = 3
"""The same of models that lost blocks, packed or not."""
KEY = "mipp"
ADVICE = "Restore the file from a copy, or save the model again."


@dataclass(frozen=True)
class FileRecord:
    """The record in a file, beside the weights.

    Attributes:
        format: Version of the record.
        mipp_version: That wrote it.
        axes: What was kept, in the full-size model.
        aliases: Other names of shared tensors -> the name under which they are stored.
        fingerprint: Of the full-size model.
        digest: The sha256 over all else and the bytes of all tensors.
        extra: Whatever the writer added.
        sizes: Attributes of modules that changed with the widths.
        packed: Shapes of the tensors whose zeros are left out (`mipp.surgery.weight_files`).
        source: What builds the full-size model, where that is known.
        plans: That were applied, one after the other.
        versions: Of the packages that the model is made of.
        blocks: That were taken out of the full-size model. Axes, sizes and the fingerprint count
            in the model without them, before units were pruned.
    """

    format: int
    axes: tuple[AxisKeep, ...]
    aliases: Mapping[str, str]
    fingerprint: str
    mipp_version: str
    extra: Mapping[str, Any]
    digest: str
    sizes: tuple[AttributeKeep, ...] = ()
    packed: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    source: Source | None = None
    plans: tuple[Applied, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    blocks: tuple[RemovedBlock, ...] = ()


def digest_of(content: Mapping[str, object], tensors: Mapping[str, Tensor]) -> str:
    """sha256 over the record (without digest) and the bytes of all tensors, in hexadecimal."""
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_file(path: Path) -> tuple[FileRecord, dict[str, Tensor]]:
    """The record and all stored tensors, once the digest was found to agree."""
    from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415 - only reading needs it

    tensors, metadata = read_safetensors(path)
    if KEY not in metadata:
        raise FileError(
            f"{path} was not written by mipp.save: its metadata has no {KEY!r}. Read plain weights "
            f"with read_weights, and load them with load_state_dict."
        )
    try:
        content = json.loads(metadata[KEY])
        written = content.get("format") if isinstance(content, dict) else None
        if written not in (FORMAT, PACKED, THINNED):
            raise FileError(
                f"{path} has format {written!r}; this version of mipp reads formats {FORMAT} to "
                f"{THINNED}. Read it with the version that wrote it."
            )
        record = TypeAdapter(FileRecord).validate_json(metadata[KEY], strict=True)
    except json.JSONDecodeError as error:
        raise FileError(f"{path} is damaged: its record is not JSON ({error}). {ADVICE}") from error
    except ValidationError as error:
        raise FileError(f"{path} is damaged: {first_problem(error)}. {ADVICE}") from error
    if not set(record.aliases.values()) <= tensors.keys():
        raise FileError(f"{path} is damaged: a shared tensor is missing. {ADVICE}")
    del content["digest"]
    digest = digest_of(content, tensors)
    if digest != record.digest:
        raise FileError(
            f"{path} was changed after it was saved: its digest should be {record.digest[:12]} and "
            f"is {digest[:12]}. {ADVICE}"
        )
    try:
        return record, unpack(tensors, record.packed)
    except InputError as error:
        raise FileError(f"{path} is damaged: {error}. {ADVICE}") from error
