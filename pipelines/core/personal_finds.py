"""What a find in a text is, and what the patterns that find share."""

import re
from collections.abc import Iterator

# Start and end in code points, half-open, and the kind.
Find = tuple[int, int, str]

HAN = "\u3400-\u9fff\uf900-\ufaff"
# Between digits that belong together.
SEP = r"[ .·-]{0,3}"


def compiled(pattern: str, flags: int = 0) -> re.Pattern[str]:
    """Without the layout of the source; letters, digits and boundaries are those of ASCII."""
    return re.compile(pattern, re.ASCII | re.VERBOSE | flags)


def groups(pattern: re.Pattern[str], text: str, kind: str) -> Iterator[Find]:
    """Each match's group `x`, or the whole where the pattern names none."""
    group: str | int = "x" if "x" in pattern.groupindex else 0
    for match in pattern.finditer(text):
        yield *match.span(group), kind


def spelled(words: str) -> frozenset[str]:
    return frozenset(words.split())
