"""The Open Inference Protocol (V2) for pictures and messages.

in    image BYTES [B]             pictures' files; as JSON in base64
      text BYTES [B]              texts
out   classify  label BYTES [B], probabilities FP32 [B, labels], as the metadata's parameter `labels` orders them
      locate    item INT64 [N], label BYTES [N], score FP32 [N], box FP32 [N, 4]: x, y, width, height in pixels
      tag       item INT64 [N], label BYTES [N], score FP32 [N], span INT64 [N, 2]: start, end in code points

N: all boxes or spans of the request, `item` the number of the input that each is of.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.serve import numbers, uploads, wire
from pipelines.serve.items import Found, Item
from pipelines.serve.replies import Refusal, Reply
from pipelines.serve.settings import Settings
from pipelines.serve.wire import Tensor

OUTPUTS: dict[str, dict[str, tuple[str, list[int]]]] = {
    "classify": {"label": ("BYTES", [-1]), "probabilities": ("FP32", [-1, -1])},
    "locate": {"item": ("INT64", [-1]), "label": ("BYTES", [-1]), "score": ("FP32", [-1]), "box": ("FP32", [-1, 4])},
    "tag": {"item": ("INT64", [-1]), "label": ("BYTES", [-1]), "score": ("FP32", [-1]), "span": ("INT64", [-1, 2])},
}
_PLACES = {"boxes": ("box", ("x", "y", "width", "height")), "spans": ("span", ("start", "end"))}


@dataclass(frozen=True)
class Infer:
    """As `wire.Infer`."""

    id: str | None
    items: tuple[Item, ...]
    wanted: dict[str, bool]
    binary: bool


def parse(body: bytes, header: bytes | None, modality: str, settings: Settings) -> Infer:
    """Raises Refusal 400, 413 or 422."""
    data, tail = wire.parted(body, header)
    tensors = data.get("inputs")
    if not isinstance(tensors, list) or len(tensors) != 1 or not isinstance(tensors[0], dict):
        raise Refusal(422, f"inputs: expected one tensor, {modality} BYTES [B]")
    tensor = tensors[0]
    if (tensor.get("name"), tensor.get("datatype")) != (modality, "BYTES"):
        raise Refusal(422, f"inputs: expected one tensor, named {modality} and of datatype BYTES")
    found = _binary(tensor, tail, modality)
    if found is None:
        given = numbers.words(tensor.get("data"), modality)
        decode = (lambda i, word: word) if modality == "text" else (lambda i, word: uploads.picture(word, f"image {i}"))
        found = [decode(i, word) for i, word in enumerate(given)]
    if tensor.get("shape") not in ([len(found)], [len(found), 1]):
        raise Refusal(422, f"{modality}: {len(found)} elements are not shape {tensor.get('shape')!r}")
    return Infer(wire.given_id(data), uploads.bounded(found, settings), *wire.outputs(data))


def _binary(tensor: dict[str, Any], tail: memoryview, modality: str) -> list[Item] | None:
    size = wire.parameters(tensor).get("binary_data_size")
    if size is None and not tail:
        return None
    if size != len(tail):
        raise Refusal(422, f"{modality}: binary_data_size is {size!r}, and {len(tail)} bytes follow the JSON")
    parts = wire.pieces(tail, modality)
    try:
        return [part.decode() for part in parts] if modality == "text" else list(parts)
    except UnicodeDecodeError as error:
        raise Refusal(422, f"text: not UTF-8: byte {error.start} begins no character") from None


def encode(found: Found, infer: Infer) -> Reply:
    """Raises Refusal 422 for an output that the answer does not have."""
    return wire.reply(found, _tensors(found), infer, labels=",".join(found.names))


def _tensors(found: Found) -> dict[str, Tensor]:
    if "label" in found.answers[0]:
        shares = np.array([list(a["probabilities"].values()) for a in found.answers], np.float32)
        return {
            "label": Tensor("BYTES", np.array([a["label"] for a in found.answers])),
            "probabilities": Tensor("FP32", shares),
        }
    key = "boxes" if "boxes" in found.answers[0] else "spans"
    name, fields = _PLACES[key]
    every = [(i, one) for i, answer in enumerate(found.answers) for one in answer[key]]
    kind, dtype = ("FP32", np.float32) if key == "boxes" else ("INT64", np.int64)
    where: Any = np.array([[one[f] for f in fields] for _, one in every], dtype).reshape(-1, len(fields))
    return {
        "item": Tensor("INT64", np.array([i for i, _ in every], np.int64)),
        "label": Tensor("BYTES", np.array([one["label"] for _, one in every], np.str_)),
        "score": Tensor("FP32", np.array([one["score"] for _, one in every], np.float32)),
        name: Tensor(kind, where),
    }
