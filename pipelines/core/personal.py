"""Personal data in free text: found and masked before anything is written. Chinese and international forms."""

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

from pipelines.core import personal_names, personal_numbers, personal_places
from pipelines.core.personal_finds import Find

# What each kind of find becomes. A token is never a find itself, so that masking twice is masking once.
TOKENS = {
    "phone": "[PHONE]", "identity": "[ID]", "plate": "[PLATE]", "email": "[EMAIL]", "card": "[CARD]", "iban": "[IBAN]",
    "passport": "[PASSPORT]", "ip": "[IP]", "account": "[ACCOUNT]", "name": "[NAME]", "address": "[ADDRESS]",
    "gps": "[GPS]",
}  # fmt: skip
KINDS = tuple(TOKENS)
# Of finds that overlap, the one earlier in this list gives its name to both.
STRONGEST = (
    "iban",
    "email",
    "gps",
    "identity",
    "card",
    "passport",
    "ip",
    "plate",
    "account",
    "phone",
    "address",
    "name",
)
RANK = {kind: rank for rank, kind in enumerate(STRONGEST)}
WORD = re.compile("[a-z]+")
TOKEN = re.compile("|".join(map(re.escape, TOKENS.values())))
ROUNDS = 9

# Characters that nobody sees: they are passed over in the search, and go where they stand inside a find.
UNSEEN = re.compile("[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\u20e3\ufe00-\ufe0f\ufeff]")
# Characters that are written in another form than the patterns below expect. All are replaced one for one.
ODD = re.compile(
    "[\u00a0\u00b2\u00b3\u00b7\u00b9\u0387\u0660-\u0669\u06f0-\u06f9\u0966-\u096f\u2000-\u200a\u2010-\u2015\u2022\u202f\u2027"
    "\u2032\u2033\u205f\u2070-\u2079\u2080-\u2089\u2212\u2460-\u2468\u24ea\u2776-\u277e\u3000\u30fb\u30fc"
    "\ufe58\ufe63\uff01-\uff5e\uff65〇零一二三四五六七八九幺壹贰叁肆伍陆柒捌玖\U0001d7ce-\U0001d7ff]"
)
HAN_DIGITS = {c: str(i % 10) for i, c in enumerate("零一二三四五六七八九〇壹贰叁肆伍陆柒捌玖")} | {"幺": "1"}
HAN_DIGITS |= {c: str(i) for i, c in enumerate("〇壹贰叁肆伍陆柒捌玖") if i} | {"〇": "0"}
# Read out or ringed digit by digit; shorter runs are dates, counts, enumerations.
SPOKEN = re.compile(
    "[〇零一二三四五六七八九幺壹贰叁肆伍陆柒捌玖](?:[ -]?[〇零一二三四五六七八九幺壹贰叁肆伍陆柒捌玖]){6,20}"
)
RINGED = re.compile("[⓪①-⑨❶-❾⁰¹²³⁴-⁹₀-₉]{7,20}")


@dataclass(frozen=True, slots=True)
class Masked:
    """A text without its personal data.

    text: each find replaced by its kind's token. found: how many of which kind. cuts: the ranges of the old text that
    were replaced and those of the new that replaced them, (start, end, start, end) in code points, in order.
    """

    text: str
    found: dict[str, int]
    cuts: tuple[tuple[int, int, int, int], ...] = ()

    def moved(self, start: int, end: int) -> tuple[int, int]:
        """Where the old range [start, end) lies in the new text; a bound inside a find goes to its token's bound."""
        if not self.cuts:
            return start, end
        i = bisect_right(self.cuts, start, key=lambda cut: cut[0]) - 1
        if i >= 0:
            _, old_end, new_start, new_end = self.cuts[i]
            start = new_start if start < old_end else start - old_end + new_end
        i = bisect_left(self.cuts, end, key=lambda cut: cut[0]) - 1
        if i >= 0:
            _, old_end, _, new_end = self.cuts[i]
            end = new_end if end <= old_end else end - old_end + new_end
        return start, max(start, end)


def mask(text: str) -> Masked:
    """`text` with a token in place of each telephone, identity number, plate, … (see `TOKENS`) found in it.

    What was found once is masked wherever it stands again. Takes time linear in the text's length; never raises.

    >>> mask("我叫王小明，电话138-0013-8000").text
    '我叫[NAME]，电话[PHONE]'
    """
    cuts: list[tuple[int, int, str]] = []
    now = text
    for _ in range(ROUNDS):
        if not (new := _finds(now)):
            break
        # What a mask uncovers, by taking a neighbour away, is looked for once more.
        cuts = sorted(cuts + _back(new, cuts))
        now = _replaced(text, cuts)
    if not cuts:
        return Masked(text, {})
    moved, shift = [], 0
    for start, end, kind in cuts:
        token = len(TOKENS[kind])
        moved.append((start, end, start + shift, start + shift + token))
        shift += token - (end - start)
    return Masked(now, dict(Counter(kind for _, _, kind in cuts)), tuple(moved))


def mask_all(texts: Iterable[str]) -> list[Masked]:
    return [mask(text) for text in texts]


def _replaced(text: str, cuts: list[tuple[int, int, str]]) -> str:
    parts: list[str] = []
    at = 0
    for start, end, kind in cuts:
        parts += (text[at:start], TOKENS[kind])
        at = end
    return "".join((*parts, text[at:]))


def _back(finds: list[Find], cuts: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """Finds in a text that `cuts` have been replaced in, as ranges of the text before. Both are in order."""
    back, shift, i = [], 0, 0
    for start, end, kind in finds:
        while i < len(cuts) and cuts[i][0] + shift < start:
            shift += len(TOKENS[cuts[i][2]]) - (cuts[i][1] - cuts[i][0])
            i += 1
        back.append((start - shift, end - shift, kind))
    return back


def _finds(text: str) -> list[Find]:
    """What is personal in `text`, in order and apart from one another; tokens that stand in it are left alone."""
    plain, at = _plain(text)
    words = frozenset(WORD.findall(plain.lower()))
    finds = [find for part in (personal_numbers, personal_names, personal_places) for find in part.finds(plain, words)]
    if not finds:
        return finds
    if at is not None:
        finds = [(at[start], at[end - 1] + 1, kind) for start, end, kind in finds]
    finds += _repeated(text, {text[start:end]: kind for start, end, kind in finds})
    whole = _joined(finds)
    if "[" not in text:
        return whole
    taken = [m.span() for m in TOKEN.finditer(text)]
    return [piece for find in whole for piece in _outside(find, taken)] if taken else whole


def _plain(text: str) -> tuple[str, list[int] | None]:
    """The text as the patterns want it, and for each of its characters the place in `text` (None: the same place)."""
    if text.isascii():
        return text, None
    at = None
    if UNSEEN.search(text):
        at = [i for i, c in enumerate(text) if not UNSEEN.match(c)]
        text = "".join(text[i] for i in at)
    if ODD.search(text):
        text = RINGED.sub(lambda m: "".join(str(unicodedata.digit(c)) for c in m[0]), text)
        text = SPOKEN.sub(lambda m: "".join(HAN_DIGITS.get(c, c) for c in m[0]), text)
        text = ODD.sub(lambda m: _usual(m[0]), text)
    return text, at


@lru_cache(4096)
def _usual(character: str) -> str:
    if "\uff01" <= character <= "\uff5e":
        return chr(ord(character) - 0xFEE0)
    if character in "\u00b7\u0387\u2022\u2027\u30fb\uff65":
        return "·"
    if unicodedata.category(character) == "Nd":
        return str(unicodedata.decimal(character))
    if unicodedata.category(character) == "Zs":
        return " "
    if unicodedata.category(character) == "Pd" or character in "\u2212\u30fc":
        return "-"
    return {"\u2032": "'", "\u2033": '"'}.get(character, character)


def _repeated(text: str, known: dict[str, str]) -> list[Find]:
    """Further places of what was found, whole words only where it is of Latin letters."""
    again: list[Find] = []
    places: Iterable[tuple[int, str]]
    if len(known) <= 16:
        places = ((i, value) for value in known for i in _places(text, value))
    else:
        long = {value for value in known if len(value) >= 8}
        places = chain(_swept(text, long), _swept(text, known.keys() - long))
    for start, value in places:
        end = start + len(value)
        if not (_cuts_word(text, start) or _cuts_word(text, end)):
            again.append((start, end, known[value]))
    return again


def _places(text: str, value: str) -> Iterable[int]:
    at = text.find(value)
    while at >= 0:
        yield at
        at = text.find(value, at + len(value))


def _swept(text: str, values: set[str]) -> Iterator[tuple[int, str]]:
    """In one pass, so that a text full of finds does not take as many."""
    width = min(map(len, values), default=0)
    heads: dict[str, set[int]] = {}
    for value in values:
        heads.setdefault(value[:width], set()).add(len(value))
    for i in range(len(text) if values else 0):
        for length in heads.get(text[i : i + width], ()):
            if text[i : i + length] in values:
                yield i, text[i : i + length]


def _cuts_word(text: str, at: int) -> bool:
    return 0 < at < len(text) and _latin(text[at - 1]) and _latin(text[at])


def _latin(character: str) -> bool:
    return character < "\u2e80" and character.isalpha()


def _joined(finds: list[Find]) -> list[Find]:
    whole: list[Find] = []
    for start, end, kind in sorted(finds):
        if whole and start < whole[-1][1]:
            first, last, other = whole[-1]
            whole[-1] = (first, max(last, end), min(other, kind, key=RANK.__getitem__))
        else:
            whole.append((start, end, kind))
    return whole


def _outside(find: Find, taken: list[tuple[int, int]]) -> list[Find]:
    """The parts of a find beside tokens."""
    start, end, kind = find
    pieces = []
    for low, high in taken[bisect_right(taken, start, key=lambda t: t[1]) :]:
        if low >= end:
            break
        if low > start:
            pieces.append((start, low, kind))
        start = max(start, high)
    return [*pieces, (start, end, kind)] if start < end else pieces
