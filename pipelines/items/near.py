"""Which items are nearly the same: perceptual hashes of pictures, shingles of messages, and the groups they make."""

from collections.abc import Iterable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
SHINGLE = 5
"""Code points of a shingle."""
ALIKE = 0.7
"""Messages that share this part of their shingles (Jaccard) are near-duplicates."""
COLOURS = 10.0
"""Pictures of near hashes whose thumbnails differ by more on average (of 255), brightness apart, are not the same:
a hash sees no colour, and in a row of cars before one camera shape alone says little."""
PERMUTATIONS, ROWS = 64, 4
_DRAWN = np.random.default_rng(64).integers(1, 2**63, (2, PERMUTATIONS), np.uint64)
_COSINES = np.cos(np.pi / 32 * (np.arange(32) + 0.5)[None, :] * np.arange(8)[:, None])


def hash64(grey: Array) -> int:
    """Perceptual hash of a grey picture [32, 32]: the signs of its 8 × 8 slowest cosines about their median."""
    slow = (_COSINES @ grey.astype(np.float64) @ _COSINES.T).ravel()
    bits = slow > np.median(slow[1:])
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def pairs_of_hashes(hashes: Array, near: int) -> list[tuple[int, int]]:
    """Pairs (i, j) of uint64 hashes [n] that differ in at most `near` bits.

    Of near + 1 bands of bits two such hashes share at least one whole, so only those that do are compared.
    """
    unique, where = np.unique(hashes, return_inverse=True)
    first = np.full(len(unique), -1, np.int64)
    out: list[tuple[int, int]] = []
    for i, u in enumerate(where.tolist()):
        if first[u] < 0:
            first[u] = i
        else:
            out.append((int(first[u]), i))
    edges = np.linspace(0, 64, near + 2).round().astype(int)
    for lo, hi in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        band = (unique >> np.uint64(lo)) & np.uint64((1 << (hi - lo)) - 1)
        for bucket in _buckets(band):
            for at, i in enumerate(bucket[:-1].tolist()):
                rest = bucket[at + 1 :]
                close = rest[np.bitwise_count(unique[rest] ^ unique[i]) <= near]
                out += [(int(first[i]), int(first[j])) for j in close.tolist()]
    return out


def pairs_of_pictures(hashes: Array, thumbs: Array, near: int) -> list[tuple[int, int]]:
    """Pairs (i, j) of near-duplicates, by hashes uint64 [n] and thumbnails uint8 [n, 768]."""
    found = pairs_of_hashes(hashes, near)
    out: list[tuple[int, int]] = []
    for lo in range(0, len(found), 4096):
        part = np.array(found[lo : lo + 4096])
        a, b = (thumbs[part[:, side]].astype(np.float32) for side in (0, 1))
        apart = np.abs((a - a.mean(1, keepdims=True)) - (b - b.mean(1, keepdims=True))).mean(1)
        out += [found[lo + i] for i in np.flatnonzero(apart <= COLOURS).tolist()]
    return out


def shingles(text: str) -> Array:
    """Hashes of the text's shingles, uint64, sorted, each once."""
    codes = np.frombuffer(text.encode("utf-32-le", "replace"), np.uint32).astype(np.uint64)
    width = min(SHINGLE, max(len(codes), 1))
    if not len(codes):
        return np.zeros(0, np.uint64)
    mixed = np.zeros(len(codes) - width + 1, np.uint64)
    for i in range(width):
        mixed = mixed * np.uint64(0x9E3779B97F4A7C15) + codes[i : len(codes) - width + 1 + i]
        mixed ^= mixed >> np.uint64(29)
    return np.unique(mixed)


def pairs_of_texts(texts: list[str]) -> list[tuple[int, int]]:
    """Pairs (i, j) of texts that share ALIKE of their shingles: MinHash brings them together, the shingles decide."""
    sets = [shingles(text) for text in texts]
    signatures = np.stack([_minima(s) for s in sets]) if sets else np.zeros((0, PERMUTATIONS), np.uint64)
    out, seen = [], set()
    for lo in range(0, PERMUTATIONS, ROWS):
        band = signatures[:, lo : lo + ROWS]
        keys = np.zeros(len(band), np.uint64)
        for column in band.T:
            keys = (keys ^ column) * np.uint64(0xFF51AFD7ED558CCD)
        for bucket in _buckets(keys):
            head = int(bucket[0])
            # Of a crowd each is held against the first and its neighbour: enough to join a group, and no square of it.
            for a, b in zip(bucket[:-1].tolist(), bucket[1:].tolist(), strict=True):
                for pair in {(a, b), (head, b)}:
                    if pair not in seen:
                        seen.add(pair)
                        if jaccard(sets[pair[0]], sets[pair[1]]) >= ALIKE:
                            out.append(pair)
    return out


def jaccard(a: Array, b: Array) -> float:
    both = len(np.intersect1d(a, b, assume_unique=True))
    return both / max(len(a) + len(b) - both, 1)


def groups(n: int, pairs: Iterable[tuple[int, int]]) -> Array:
    """Each item's group, int64 [n], named by its lowest member: what pairs join, directly or through others."""
    parent = list(range(n))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for a, b in pairs:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return np.array([root(i) for i in range(n)], np.int64)


def _minima(hashes: Array) -> Array:
    """uint64 [PERMUTATIONS]: the least of the hashes under each of so many orders."""
    if not len(hashes):
        return np.zeros(PERMUTATIONS, np.uint64)
    least = np.full(PERMUTATIONS, np.iinfo(np.uint64).max, np.uint64)
    for lo in range(0, len(hashes), 4096):
        part = hashes[lo : lo + 4096, None] * (_DRAWN[0] | np.uint64(1)) + _DRAWN[1]
        least = np.minimum(least, (part ^ (part >> np.uint64(31))).min(0))
    return least


def _buckets(keys: Array) -> list[Array]:
    """Positions of equal keys, where there are two or more."""
    order = np.argsort(keys, kind="stable")
    cuts = np.flatnonzero(np.diff(keys[order])) + 1
    return [part for part in np.split(order, cuts) if len(part) > 1]
