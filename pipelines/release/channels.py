"""A model's tables for some of its channels, or for more of them: a channel is a row of each.

Tables are those of a bundle's tables.safetensors, numbered as its channels are.
"""

from typing import Any

import numpy as np

from pipelines.core.errors import UserError

Array = np.ndarray[Any, Any]
Tables = dict[str, Array]
Channel = dict[str, Any]
ENOUGH, LEAST = 12, 0.1
"""Readings from which a stranger's own mean and spread are reckoned, and the least spread, in its kind's."""
_ROWS, _PEERS = ("mean", "std", "place", "kind", "sensor", "unit_id", "reference"), ("peers", "weights", "peered")


def chosen(tables: Tables, columns: Array, targets: int) -> Tables:
    """Tables of the channels `columns`, distinct numbers, in that order; below `targets` are those that are answered.

    Of a kind known ahead, those that are left make up the mean.
    """
    number = np.full(len(tables["mean"]), -1)
    number[columns] = np.arange(len(columns))
    out = {**tables, **{k: tables[k][columns] for k in _ROWS}, "profile": tables["profile"].take(columns, axis=1)}
    if "misfit" in tables:
        out["misfit"] = tables["misfit"][columns[columns < targets]]
    out["ahead"] = _shared(tables["ahead"][columns], tables["ahead"])
    return {**out, **_near(tables, columns, number), **_peers(tables, columns, number)}


def _peers(tables: Tables, columns: Array, number: Array) -> Tables:
    """`peers`, `weights` and `peered`: the peers that are left share the weight, and are heard as much as their own
    part of it was. Else those left out would be taken to be as usual: energy's answers for a tenth of the zones were
    half as bad again."""
    peers, weights = number[tables["peers"][columns]], tables["weights"][columns]
    left, whole = np.where(peers >= 0, weights, np.float32(0)), weights.sum(1)
    share = np.where(whole > 0, left.sum(1) / np.where(whole > 0, whole, 1), 1).astype(np.float32)
    weights = left / np.where(share > 0, share, 1)[:, None]
    return {"peers": np.maximum(peers, 0), "weights": weights, "peered": tables["peered"][columns] * share}


def _near(tables: Tables, columns: Array, number: Array) -> Tables:
    """`near` and `close`. The graph wants as many neighbours as ever: those that are here stand in for the others in
    turn, so that attention is to them in equal parts."""
    near, close = tables["near"][columns], tables["close"][columns]
    if not near.shape[1]:
        return {"near": near, "close": close.take(columns, axis=1) if close.shape[1] else close}
    near = number[near]
    here = near >= 0
    first, turn = np.argsort(~here, axis=1, kind="stable"), np.cumsum(~here, axis=1) - 1
    again = np.take_along_axis(first, turn % here.sum(1, keepdims=True), axis=1)
    place = np.where(here, np.arange(near.shape[1]), again)
    return {"near": np.take_along_axis(near, place, axis=1), "close": np.take_along_axis(close, place, axis=1)}


def _shared(part: Array, whole: Array) -> Array:
    """Parts in the mean of each kind known ahead [n, kinds], made to add up to what those of `whole` do."""
    have, want = part.sum(0), whole.sum(0)
    return part * np.where(have > 0, want / np.where(have > 0, have, 1), 1).astype(np.float32)


def joined(tables: Tables, channels: list[Channel], strangers: list[tuple[str, str]]) -> tuple[Tables, list[Channel]]:
    """Tables and channels with `strangers`, (sensor, kind), as the last ones.

    A stranger is taken for a usual channel of its kind: mean, spread and reference are the medians of those known, the
    week's profile is the mean of theirs, each in its own spread; see `acquainted`. It has no number, no place, no
    neighbours and no peers. Raises UserError where no channel of the kind is known.
    """
    kinds: dict[str, list[int]] = {}
    for i, c in enumerate(channels):
        if c["kind"] not in kinds or c["role"] == channels[kinds[c["kind"]][0]]["role"]:
            kinds.setdefault(c["kind"], []).append(i)
    for sensor, kind in strangers:
        if kind not in kinds:
            raise UserError(f"sensor {sensor!r}: this model knows no {kind!r}; its kinds are {', '.join(kinds)}")
    usual = {kind: _usual(tables, np.array(kinds[kind])) for _, kind in strangers}
    rows = [usual[kind] for _, kind in strangers]
    out = {**tables, **{k: np.concatenate([tables[k], np.stack([r[k] for r in rows])]) for k in (*_ROWS, *_PEERS)}}
    out["profile"] = np.concatenate([tables["profile"], np.stack([r["profile"] for r in rows], axis=1)], axis=1)
    part = np.concatenate([tables["ahead"], np.stack([r["ahead"] for r in rows])])
    nobody = {"latitude": None, "longitude": None, "district": None, "stranger": True}
    there = [*channels, *({**channels[kinds[kind][0]], **nobody, "sensor": sensor} for sensor, kind in strangers)]
    return {**out, "ahead": _shared(part, tables["ahead"]), **_alone(tables, len(rows))}, there


def acquainted(tables: Tables, strangers: Array, values: Array) -> Tables:
    """Tables in which mean, spread and reference of the channels `strangers` are those of their readings `values`
    [B, T, strangers], NaN = missing, and their profile lies there. A channel with few readings stays as it was.

    By the kind's medians alone a stranger's classes were wrong in a third of the cases, by its readings in a twentieth.
    """
    out = {k: tables[k].copy() if k in ("mean", "std", "reference", "profile") else v for k, v in tables.items()}
    for i, column in zip(strangers, values.reshape(-1, values.shape[2]).T.astype(np.float64), strict=True):
        read = column[np.isfinite(column)]
        if len(read) < ENOUGH:
            continue
        mean, std = tables["mean"][i], tables["std"][i]
        out["mean"][i], out["std"][i] = read.mean(), max(read.std(), LEAST * std)
        out["reference"][i] = np.quantile(read, 0.9)
        out["profile"][:, i] = out["mean"][i] + (tables["profile"][:, i] - mean) * (out["std"][i] / std)
    return out


def _usual(tables: Tables, alike: Array) -> Tables:
    """A row of each table for a channel of which nothing is known but its kind, that of the channels `alike`."""
    mean, std = tables["mean"][alike], tables["std"][alike]
    middle = {k: np.median(tables[k][alike]) for k in ("mean", "std", "reference")}
    shape = ((tables["profile"][:, alike] - mean) / std).mean(1)
    first = {k: tables[k][alike[0]] for k in ("kind", "unit_id")}
    nothing = {k: np.zeros_like(tables[k][0]) for k in ("sensor", "place", "peers", "weights", "peered")}
    profile = (middle["mean"] + middle["std"] * shape).astype(np.float32)
    return {**middle, **first, **nothing, "ahead": tables["ahead"][alike].mean(0), "profile": profile}


def _alone(tables: Tables, more: int) -> Tables:
    """`near` and `close` with so many more channels, near to nobody but themselves."""
    near, close = tables["near"], tables["close"]
    n, k = near.shape
    itself = n + np.arange(more)
    out = np.concatenate([near, np.repeat(itself[:, None], k, axis=1)])
    if k or not close.shape[1]:
        return {"near": out, "close": np.concatenate([close, np.ones((more, close.shape[1]), np.float32)])}
    wide = np.zeros((n + more, n + more), np.float32)
    wide[:n, :n], wide[itself, itself] = close, 1
    return {"near": out, "close": wide}
