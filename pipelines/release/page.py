"""A version's page in the registry: the card, and beside it sections that come later, each put there by whoever knows.

    text = page.put(card, "Lineage", body)
    text = page.put(text, "Verdict", body, before=page.RESULTS)
    text = page.fit(text, 5000)

A section is a line `## title` and what follows it up to the next such line. Whoever puts one leaves the others alone,
so that it matters little who comes first.
"""

import re

RESULTS = "Results on the frozen test"
LIVE = "Live"
KEPT = ("Verdict", LIVE, "Review", "Lineage")
"""Sections that are never cut."""
NOTICE = "… the rest is in the run's artifact `card/card.md`."
_HEAD = re.compile(r"^## (.+)$", re.MULTILINE)
Part = tuple[str, str]
"""Title and body of a section; what stands before the first one has no title."""


def get(text: str, title: str) -> str | None:
    """What stands in section `title`; None where there is none."""
    return next((body for name, body in _parts(text) if name == title), None)


def put(text: str, title: str, body: str, *, before: str | None = None) -> str:
    """`text` with `body` as its section `title`: where that is, else before section `before`, else at the end."""
    parts, new = _parts(text), (title, body.strip("\n"))
    names = [name for name, _ in parts]
    if title in names:
        parts[names.index(title)] = new
    else:
        parts.insert(names.index(before) if before in names else len(parts), new)
    return _text(parts)


def fit(text: str, limit: int) -> str:
    """`text` in at most `limit` characters: what is not KEPT ends earlier, at a line, and a notice says so.

    Cut, given another section and cut again, it is what it would be had that section been there before.
    """
    if len(text) <= limit:
        return text
    parts = [(name, body.replace(NOTICE, "").strip("\n")) for name, body in _parts(text)]
    low, high = 1, sum(_lines(part) for part in parts)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if len(_cut(parts, middle)) <= limit else (low, middle)
    return _cut(parts, low)[:limit]


def _parts(text: str) -> list[Part]:
    found = _HEAD.split(text)
    return [(name, body.strip("\n")) for name, body in zip(["", *found[1::2]], found[::2], strict=True)]


def _text(parts: list[Part]) -> str:
    return "\n\n".join(f"## {name}\n\n{body}" if name else body for name, body in parts) + "\n"


def _lines(part: Part) -> int:
    """Of those that may be cut; a title is one."""
    name, body = part
    return 0 if name in KEPT else body.count("\n") + 1 + bool(name)


def _cut(parts: list[Part], room: int) -> str:
    """KEPT sections, the first `room` lines of the others, and the notice after those."""
    told: list[Part] = []
    last = 0
    for name, body in parts:
        mine = room - bool(name)
        room -= _lines((name, body))
        if name not in KEPT and mine > 0:
            last = len(told)
            told.append((name, "\n".join(body.split("\n")[:mine]).strip("\n")))
        elif name in KEPT:
            told.append((name, body))
    name, body = told[last]
    told[last] = (name, f"{body}\n\n{NOTICE}")
    return _text(told)
