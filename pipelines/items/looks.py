"""What a picture looks like, in a few numbers: enough to judge it, to know it again, and never to decode it twice."""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.core import pictures
from pipelines.core.params import Contract
from pipelines.items import near

Array = np.ndarray[Any, Any]
LOOKS = pa.schema(
    [
        ("blob", pa.string()),
        ("reason", pa.string()),  # why it cannot be used, as pictures.Unfit says, or `altered`; null: it can
        ("said", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("spread", pa.float32()),  # standard deviation of its grey values, 0 … 127
        ("hash", pa.uint64()),
        ("thumb", pa.binary(768)),  # 16 × 16 × 3 values
    ]
)
GREY = np.array([0.299, 0.587, 0.114])


def bounds(contract: Contract) -> pictures.Bounds:
    return pictures.Bounds(contract.side, contract.pixels, contract.aspect)


def look(path: Path, limits: pictures.Bounds) -> dict[str, Any]:
    """One row of LOOKS. Never raises for what the file holds."""
    row: dict[str, Any] = {"blob": path.name}
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return row | {"reason": "altered", "said": "its file is gone"}
    if hashlib.sha256(data).hexdigest() != path.name:
        return row | {"reason": "altered", "said": "its file is not what was ingested"}
    try:
        width, height = pictures.size(data, limits)
        picture = pictures.decode(data, limits, near=64)
    except pictures.Unfit as error:
        return row | {"reason": error.reason, "said": str(error)}
    small = np.asarray(picture.resize((32, 32), resample=2, reducing_gap=3.0)).astype(np.float64)
    thumb = small.reshape(16, 2, 16, 2, 3).mean((1, 3)).round().astype(np.uint8)
    row |= {"width": width, "height": height, "spread": float(np.asarray(picture.convert("L")).std())}
    return row | {"hash": near.hash64(small @ GREY), "thumb": thumb.tobytes()}


def look_at(paths: list[Path], limits: pictures.Bounds) -> Iterator[dict[str, Any]]:
    """Rows of LOOKS, in order; Pillow decodes beside Python, so threads are enough."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        yield from threads.map(lambda path: look(path, limits), paths)
