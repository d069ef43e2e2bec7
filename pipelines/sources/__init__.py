"""Connectors: one file each, one shape. `open_feed` finds the one a source names and opens it.

A connector module has one function:

    def read(source: Source, city: City, window: Window) -> Feed | Items

(a Feed for a series source, Items for images and texts). It takes a fourth argument, `root: Path`, when it needs the
city's folder (relative paths, downloads).

It raises `UserError` for what the user can mend (a missing file, a wrong column, a bad checksum).
Records may come in any order within and across batches; ingest sorts them into days. Everything
before `window.start` or from `window.end` on is dropped by ingest, so a connector may over-deliver.
"""

import datetime as dt
import importlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pyarrow as pa

from pipelines.core.params import City, Source
from pipelines.core.records import EDGES


class Window(NamedTuple):
    """Half-open, UTC."""

    start: dt.datetime
    end: dt.datetime


class Batch(NamedTuple):
    """Up to about a million records (schema RECORDS), and what was spoiled in them (schema TRUTH) if known."""

    records: pa.Table
    truth: pa.Table | None = None


@dataclass(frozen=True)
class Feed:
    """What a connector delivers: the sensors table, batches of records, and a road graph where there is one."""

    sensors: pa.Table
    batches: Iterator[Batch]
    edges: pa.Table = field(default_factory=EDGES.empty_table)


ITEM_TRUTH = pa.schema(
    [("time", pa.timestamp("us", "UTC")), ("item", pa.string()), ("fault", pa.string()), ("of", pa.string())]
)
"""What was spoiled in an item: `item` is its `blob` or `id` as delivered; `of` is the blob or id of the item that it
repeats (near and exact duplicates, frozen frames), null otherwise. Only the simulator knows it."""


class ItemBatch(NamedTuple):
    """Some thousand items at most: `table` in schema IMAGES or TEXTS, as they came, unmasked.

    images: `blobs` holds the encoded bytes of every `blob` (SHA-256 of them, hex) of the table, as they came, be they
    a picture or not; an item whose bytes came twice shares them. texts: empty. `truth`: ITEM_TRUTH, if known.
    """

    table: pa.Table
    blobs: Mapping[str, bytes] = MappingProxyType({})
    truth: pa.Table | None = None


@dataclass(frozen=True)
class Items:
    """What a connector of pictures or messages delivers."""

    batches: Iterator[ItemBatch]


def open_feed(source: Source, city: City, window: Window, root: Path = Path()) -> Feed | Items:
    """Open the connector named by `source.read.connector`; `root` is the city's folder."""
    module = importlib.import_module(f"pipelines.sources.{source.read.connector}")
    extra = {"root": root} if "root" in inspect.signature(module.read).parameters else {}
    feed: Feed | Items = module.read(source, city, window, **extra)
    return feed
