"""Scores of a stream's anomaly detector as the Numenta Anomaly Benchmark gives them (Lavin and Ahmad, 2015).

An alarm inside a labelled window earns the more the earlier it comes, and only the window's best one counts; each one
outside costs, less so shortly after a window; a window without any costs. The sum is 0 for a detector that is always
silent and 100 for one that raises one alarm at the start of each window.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
PROBATION, LONGEST = 0.15, 750
"""The first readings of a stream are for learning only: so much of it, and never more than LONGEST."""


@dataclass(frozen=True)
class Profile:
    """What a window found is worth, and what a false alarm and a window missed cost."""

    hit: float = 1.0
    false: float = 0.11
    missed: float = 1.0


PROFILES = {"standard": Profile(), "reward_low_fp": Profile(false=0.22), "reward_low_fn": Profile(missed=2.0)}


@dataclass(frozen=True)
class Stream:
    """Scores [n] of one stream's readings in order, and its windows as first and last reading number."""

    score: Array
    windows: Sequence[tuple[int, int]]


def probation(length: int) -> int:
    """How many first readings of a stream are not scored."""
    return min(int(PROBATION * length), LONGEST)


def sigmoid(position: Array) -> Array:
    """What an alarm earns at −1 (a window starts), 0 (it ends), 1 (a window later) and so on, from 1 down to −1."""
    return np.where(position > 3, -1.0, 2 / (1 + np.exp(5 * np.minimum(position, 3))) - 1)


def worth(length: int, windows: Sequence[tuple[int, int]], profile: Profile) -> tuple[Array, Array]:
    """What an alarm at each of `length` readings earns, and the number of its window or −1; both [length]."""
    place = np.arange(length)
    earns, inside = np.full(length, -profile.false), np.full(length, -1)
    best = sigmoid(np.array(-1.0))
    for number, (first, last) in enumerate(windows):
        width = last - first + 1
        after = place > last
        earns[after] = profile.false * sigmoid((place[after] - last) / max(width - 1, 1))
        within = (place >= first) & ~after
        earns[within] = profile.hit * sigmoid(-(last - place[within] + 1) / width) / best
        inside[within] = number
    return earns, inside


def sweep(streams: Sequence[Stream], profile: Profile) -> tuple[Array, Array]:
    """Thresholds from high to low, the first of which nothing reaches, and the normalised score at each.

    One threshold is for all streams; a reading alarms that scores as much or more. Readings without a score never do.
    """
    parts = []
    begin = 0
    for stream in streams:
        earns, inside = worth(len(stream.score), stream.windows, profile)
        scored = (np.arange(len(stream.score)) >= probation(len(stream.score))) & np.isfinite(stream.score)
        parts.append((stream.score[scored], earns[scored], np.where(inside >= 0, inside + begin, -1)[scored]))
        begin += len(stream.windows)
    score, earns, window = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(-score, kind="stable")
    found = np.full(begin, -profile.missed)
    total = [-profile.missed * begin]
    running = total[0]
    for i in order:
        if window[i] < 0:
            running += earns[i]
        elif earns[i] > found[window[i]]:
            running += earns[i] - found[window[i]]
            found[window[i]] = earns[i]
        total.append(running)
    ends = np.append(np.flatnonzero(np.diff(score[order])), len(order) - 1) + 1 if len(order) else np.zeros(0, int)
    raw = np.array(total)[np.append(0, ends)]
    null, perfect = -profile.missed * begin, profile.hit * begin
    return np.append(np.inf, score[order][ends - 1]), 100 * (raw - null) / (perfect - null)


def best(streams: Sequence[Stream], profile: Profile) -> tuple[float, float]:
    """The highest score that one threshold for all streams gives, and that threshold: the benchmark's protocol."""
    thresholds, scores = sweep(streams, profile)
    at = int(np.argmax(scores))
    return float(scores[at]), float(thresholds[at])


def at(streams: Sequence[Stream], profile: Profile, threshold: float) -> float:
    """The score at a threshold chosen elsewhere."""
    thresholds, scores = sweep(streams, profile)
    return float(scores[np.flatnonzero(thresholds >= threshold)[-1]])
