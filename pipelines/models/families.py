"""Families of backbone, one file each, all of one shape.

    Backbone(config)              a torch module with `.config` and `.width`
    forward(cadence, x, observed, usual, window, calendar, channels, only=None) -> [B, N, S, D]
                                  as `tokens.Tokens.forward`; with `only` [M], numbers of tokens, just those, [M, D]

Pretraining, heads, fine-tuning and export are shared: they know a backbone by that shape alone.
"""

import importlib
from typing import Any

from pipelines.models.tokens import Config

FILES = {"transformer": "series"}
"""Where a family has another name than its file."""


def build(config: Config) -> Any:
    """A new backbone of the family and size that `config` says."""
    return importlib.import_module(f"pipelines.models.{FILES.get(config.family, config.family)}").Backbone(config)
