"""What a training of pictures or messages comes to, for the rooms to write."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Pretrained:
    """`forget` removes the checkpoints once the contents are written."""

    contents: dict[str, bytes]
    """Files of the backbone's folder by name."""
    report: dict[str, Any]
    curve: list[dict[str, float]]
    forget: Callable[[], None]


@dataclass(frozen=True)
class Tuned:
    """`contents`: the bundle's files without config.json; `config`: what belongs there; the rest as of `Pretrained`."""

    contents: dict[str, bytes]
    config: dict[str, Any]
    report: dict[str, Any]
    curve: list[dict[str, float]]
    forget: Callable[[], None]
