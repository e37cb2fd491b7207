"""One rank's tensors as one safetensors file, written as a stream and read by slices from any store.

The format is that of huggingface/safetensors: eight bytes of header length, a JSON header, then the tensors without
gaps. Their library needs a local file to read slices and a second copy in memory to write.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from trainer.checkpoint.storage import Folder, Written, read_exactly

DTYPES = {
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
KINDS = {name: dtype for dtype, name in DTYPES.items()}
LARGEST_HEADER = 2**30
SHARD = re.compile(r"^shard-\d{5,}-of-\d{5,}-[0-9a-f]{8}\.safetensors$")
"""Names of files; the digits at the end are those of one save."""


def nbytes(tensors: dict[str, Tensor]) -> int:
    """Bytes that the tensors themselves take."""
    return sum(t.numel() * t.element_size() for t in tensors.values())


def write_shard(folder: Folder, name: str, tensors: dict[str, Tensor]) -> Written:
    """Write tensors in their order, straight from memory."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for key, tensor in tensors.items():
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[key] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)

    def parts() -> Iterator[memoryview | bytes]:
        yield struct.pack("<Q", len(text)) + text
        for tensor in tensors.values():
            yield as_bytes(tensor.detach().cpu().contiguous())

    return folder.write(name, parts())


class ShardReader:
    """Slices of the tensors in one file.

    Args:
        folder, name: where it lies.
        file: the same, already open.
    """

    def __init__(self, folder: Folder, name: str, file: Any = None) -> None:
        self.name = name
        self._file = folder.open(name) if file is None else file
        start = bytearray(8)
        read_exactly(self._file, 0, memoryview(start))
        (length,) = struct.unpack("<Q", start)
        if length > LARGEST_HEADER:
            raise ValueError(f"a header of {length} bytes")
        text = bytearray(length)
        read_exactly(self._file, 8, memoryview(text))
        self._header: dict[str, Any] = json.loads(bytes(text))
        self._data = 8 + length

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def read(self, key: str, start: int, out: Tensor) -> None:
        """Fill a 1-D tensor from element `start` of a stored one; the kinds may differ, the values are cast."""
        dtype = KINDS[self._header[key]["dtype"]]
        direct = out.is_contiguous() and out.device.type == "cpu" and out.dtype == dtype
        landing = out if direct else torch.empty(out.shape, dtype=dtype)
        first, last = self._header[key]["data_offsets"]
        offset = first + start * landing.element_size()
        if offset + landing.numel() * landing.element_size() > last:
            raise ValueError(f"{key} is shorter than the manifest says")
        read_exactly(self._file, self._data + offset, as_bytes(landing))
        if not direct:
            out.copy_(landing)

    def tensor(self, key: str) -> Tensor:
        """A whole tensor."""
        entry = self._header[key]
        out = torch.empty(entry["shape"], dtype=KINDS[entry["dtype"]])
        self.read(key, 0, out.view(-1))
        return out

    def keys(self) -> list[str]:
        """Names of the tensors."""
        return [key for key in self._header if key != "__metadata__"]


def as_bytes(tensor: Tensor) -> memoryview:
    """The memory of a contiguous CPU tensor."""
    return tensor.view(-1).view(torch.uint8).numpy().data
