"""A model's fingerprint: the same weights give the same one, on every machine, in a second.

All tensors count by name, type and shape, their contents by samples: the whole
of a small tensor, blocks spread over a large one. That tells models, versions
and fine-tunes apart without reading 30 GB; it is no protection against someone
who crafts a collision.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

BLOCK_BYTES = 4096
BLOCKS = 4


def fingerprint_of(files: list[Path]) -> str:
    """32 hexadecimal digits for the safetensors ``files``, in any order.

    Raises:
        ValueError: a file is no safetensors file.
    """
    digest = hashlib.sha256()
    for path in sorted(files, key=lambda path: path.name):
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if not 2 <= size <= 100 << 20:
                raise ValueError(f"{path} is no safetensors file")
            header = json.loads(file.read(size))
            for name in sorted(header):
                if name == "__metadata__":
                    continue
                facts = header[name]
                start, end = facts["data_offsets"]
                digest.update(f"{name} {facts['dtype']} {facts['shape']}".encode())
                length = end - start
                step = max(BLOCK_BYTES, (length - BLOCK_BYTES) // (BLOCKS - 1)) if length > BLOCK_BYTES else 1
                for offset in range(0, max(length - BLOCK_BYTES, 0) + 1, step):
                    file.seek(8 + size + start + offset)
                    digest.update(file.read(min(BLOCK_BYTES, length - offset)))
    return digest.hexdigest()[:32]
