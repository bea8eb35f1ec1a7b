"""Writing safetensors files as a stream: hashed while they are written, synced when they are done.

``safetensors.torch.save_file`` holds Python's lock while it writes, so that a training would stand
still beside it, what it wrote has to be read again for a checksum, and only its owner can read it
(mode 600, whatever the umask). The format is a length, a JSON header and the bytes
(https://github.com/huggingface/safetensors): written here in blocks, with Python's lock free while
a block is hashed and written.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

_BLOCK = 1 << 24  # bytes
_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write_tensors(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None
) -> str:
    """Write tensors of the host into a safetensors file and onto the disk; its SHA-256.

    Raises OSError, with the file's name, where the file system refuses.
    """
    # widest numbers first: each tensor is then aligned to its numbers
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    digest = hashlib.sha256()
    try:
        with open(path, "wb", buffering=0) as file:
            for block in (_header(names, tensors, metadata), *_blocks(names, tensors)):
                digest.update(block)
                rest = memoryview(block)
                while rest:  # a file without a buffer may take less than it is given
                    rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    return digest.hexdigest()


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Put tensors of any device in the place of a safetensors file, which may be mapped still.

    Raises OSError, with the file's name; what was there is then as it was.
    """
    temporary = path.with_name(f"{path.name}.tmp{os.getpid()}")
    try:
        write_tensors(temporary, {n: t.detach().cpu() for n, t in tensors.items()}, metadata)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _header(names: list[str], tensors: dict[str, Tensor], metadata: dict[str, str] | None) -> bytes:
    described: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    start = 0
    for name in names:
        tensor = tensors[name]
        stop = start + tensor.numel() * tensor.element_size()
        shape, offsets = list(tensor.shape), [start, stop]
        described[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": shape,
            "data_offsets": offsets,
        }
        start = stop
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _blocks(names: list[str], tensors: dict[str, Tensor]) -> Iterator[memoryview]:
    for name in names:
        flat = tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy()
        for start in range(0, len(flat), _BLOCK):
            yield flat[start : start + _BLOCK].data
