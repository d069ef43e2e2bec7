"""Citizens' messages: what they write about follows the city's traffic, rain, air, leaks and load of the hour.

Messages are a function of (seed, hour). One about traffic names a stretch of road and says how traffic runs there,
which is true but for ERRING of them; the rest is everyday matter, some of it of two minds or of none.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.core.params import City
from pipelines.core.records import TEXTS
from pipelines.sources import ITEM_TRUTH, ItemBatch, Window
from pipelines.sources.simulated import phrases as p
from pipelines.sources.simulated.air import Air
from pipelines.sources.simulated.energy import Energy
from pipelines.sources.simulated.ground import Array, bump, local, rng
from pipelines.sources.simulated.traffic import Traffic
from pipelines.sources.simulated.water import Water
from pipelines.sources.simulated.weather import weather

JAM, FREE = 0.45, 0.75
"""Shares of the free speed: below the one it is a jam, above the other it is free; between them nobody says which."""
ERRING = 0.06
"""Share of those who state a jam or a free road that err."""
MISROUTED = 0.02
"""Share of labels that are another department's: whoever labels errs too."""
TWO, NONE, PRIVATE, TYPED = 0.16, 0.05, 0.14, 0.25
"""Shares that are about two matters, about nothing one could tell, hold personal data, have slips of typing."""
LONGEST = 600
BATCH = 2000

FAULTS: Mapping[str, float] = {
    "empty": 0.003,
    "garbled": 0.004,  # bytes read in the wrong encoding, or characters that no one can type
    "duplicate": 0.006,  # the same text again under another id, minutes later
    "long": 0.002,  # the same over and over, thousands of characters
    "label": 0.004,  # a department that there is not
    "overlap": 0.002,  # two spans that overlap
}
"""Expected share of messages. What needs an annotation or a span befalls those that have one so much more often."""
MARKED = 6
"""About one message in so many states how traffic runs."""
WRONG = ("trnsport", "other", "roads", "环保")


@dataclass(frozen=True)
class Said:
    """A message and what is behind it."""

    second: int
    id: str
    text: str
    department: str
    topic: str
    language: str
    spans: tuple[tuple[int, int, str], ...] = ()
    site: int = -1
    """Traffic only: the detector by the road."""
    personal: bool = False


class Talk:
    """About `n` messages a day; more when much goes wrong."""

    def __init__(self, city: City, n: int | None = None) -> None:
        self.city, self.seed, self.n = city, city.seed, n or 120
        self.traffic, self.air, self.water, self.energy = Traffic(city), Air(city), Water(city), Energy(city)

    @lru_cache(maxsize=4)  # noqa: B019 - lives as long as its feed
    def pace(self, day: int) -> Array:
        """Speed over free speed, [288, detectors]; NaN where a closed road is silent."""
        return self.traffic.day(day)["speed"] / self.traffic.free

    @lru_cache(maxsize=4)  # noqa: B019 - as above
    def _troubles(self, day: int) -> dict[str, Array]:
        """How much of each trouble there is by the hour, [24] each, about 0..1; and what is needed to name it."""
        pace, sky = self.pace(day), weather(self.seed, day)
        jam = np.nan_to_num(pace < JAM).reshape(24, 12, -1).mean((1, 2))
        leaks = self.water.day(day)["leak"].reshape(24, 4, -1).max(1)
        load = self.energy.day(day)["load"].sum(1).reshape(24, 4).mean(1)
        dust = self.air.day(day)["pm25"].mean(1)
        return {
            "jam": np.minimum(jam * 4, 1.5), "rain": np.minimum(sky.rain / 2, 1.5),
            "dust": np.clip(dust / 15 - 0.6, 0, 2), "ice": np.clip(-sky.temperature / 3, 0, 1), "leaks": leaks,
            "load": np.clip(4 * load / load.mean() - 4.4, 0, 1), "pm25": dust,
            "hour": local(self.city, day, 3600)[0],
        }  # fmt: skip

    def hour(self, hour: int) -> list[Said]:
        """What is written in this hour (since 1970), by time."""
        day, h = divmod(hour, 24)
        trouble, r = self._troubles(day), rng(self.seed, "talk", hour)
        now = {name: float(values[h]) for name, values in trouble.items() if values.ndim == 1}
        leaks = np.flatnonzero(trouble["leaks"][h])
        clock = trouble["hour"][h : h + 1]
        awake = float((0.08 + bump(clock, 9.5, 2.5) + 0.8 * bump(clock, 18.5, 3.0) + 0.4 * bump(clock, 13, 2.0))[0])
        stir = 0.7 + 0.5 * now["jam"] + 0.3 * now["rain"] + 0.15 * now["dust"] + 0.05 * len(leaks)
        count = int(r.poisson(self.n * awake / 17.5 * stir))
        weights = {name: topic.usual for name, topic in p.TOPICS.items()}
        weights["traffic"] += 4.5 * now["jam"] + 0.8
        weights["flood"] += 3.5 * now["rain"]
        weights["air"] += 2.0 * now["dust"]
        weights["leak"] += 0.25 * len(leaks)
        weights["power"] += 1.0 * now["load"]
        weights["danger"] += 1.0 * now["ice"]
        seconds = np.sort(r.integers(0, 3600, count)).tolist()
        return [self._one(hour, k, hour * 3600 + s, weights, now, leaks) for k, s in enumerate(seconds)]

    def _one(
        self, hour: int, k: int, second: int, weights: dict[str, float], now: dict[str, float], leaks: Array
    ) -> Said:
        r, names = rng(self.seed, "message", hour, k), list(weights)
        chance = np.array(list(weights.values()))
        topics = [names[i] for i in r.choice(len(names), 2, replace=False, p=chance / chance.sum())]
        language = p.LANGUAGES[int(r.random() < 0.5)]
        fill = _Fill(self, r, language, second, now, leaks)
        main = topics[0]
        short, long = r.random() < 0.15, r.random() < 0.28
        if r.random() < NONE:
            body, site = fill(_pick(r, p.VAGUE[language])), -1
        else:
            body, site = self._core(main, fill)
            if not short and r.random() < TWO:
                other, other_site = self._core(topics[1], fill)
                if r.random() < 0.4:  # what matters comes second
                    body, other = other, body
                body += _pick(r, p.ALSO[language]) + other
                site = max(site, other_site)
        parts = [] if short or r.random() < 0.5 else [_pick(r, p.GREET[language])]
        parts.append(body if short or body[-1] in "?？" else body + _pick(r, p.END[language]).strip())
        if not short:
            parts += [
                fill(t) for t in _some(r, p.DETAIL[language], int(r.integers(3, 16)) if long else int(r.integers(0, 3)))
            ]
        personal = bool(r.random() < PRIVATE)
        if personal:
            parts.append(fill(_pick(r, p.CONTACT[language])))
        if not short and r.random() < 0.5:
            parts.append(_pick(r, p.CLOSE[language]))
        text, spans = _spelled((" " if language == "en" else "").join(parts), r, language)
        return Said(second, f"m{hour}-{k:03d}", text, p.TOPICS[main].department, main, language, spans, site, personal)

    def _core(self, topic: str, fill: "_Fill") -> tuple[str, int]:
        if topic != "traffic":
            return fill(_pick(fill.r, p.TOPICS[topic].core[fill.language])), -1
        r, pace = fill.r, self.pace(fill.second // 86400)[fill.second % 86400 // 300]
        jams, frees = np.flatnonzero(pace < JAM), np.flatnonzero(pace > FREE)
        jammed = len(jams) > 0 and (len(frees) == 0 or r.random() < 0.75)
        among = jams if jammed else frees
        if not len(among):
            return fill(_pick(r, p.TOPICS["signal"].core[fill.language])), -1
        site = int(r.choice(among))
        said = "jam" if jammed != (r.random() < ERRING) else "free"
        fill.site, fill.pace = site, float(pace[site]) if (said == "jam") == jammed else 0.6
        return fill(_pick(r, p.TRAFFIC[said][fill.language])), site


class _Fill:
    """Fills the slots of a sentence by the moment it is written at."""

    def __init__(
        self, talk: Talk, r: np.random.Generator, language: str, second: int, now: dict[str, float], leaks: Array
    ) -> None:
        self.talk, self.r, self.language, self.second, self.now, self.leaks = talk, r, language, second, now, leaks
        self.site, self.pace = -1, 1.0

    def __call__(self, template: str) -> str:
        return re.sub(r"\{(\w+)\}", lambda m: self._slot(m.group(1), template), template)

    def _slot(self, name: str, template: str) -> str:
        r, language = self.r, self.language
        if name in p.SLOTS:
            return _pick(r, p.SLOTS[name][language])
        if name == "district":
            water = any(word in template for word in ("water", "水"))
            at = (
                self.talk.water.sites.district[int(r.choice(self.leaks))]
                if water and len(self.leaks)
                else r.integers(5)
            )
            return p.DISTRICT[language][int(at)]
        if name == "road":
            return self._road()
        numbers = {"n": r.integers(3, 60), "m": r.integers(2, 12), "pm": round(self.now["pm25"] * r.uniform(0.8, 1.3))}
        numbers["speed"] = round(float(self.talk.traffic.free[self.site]) * self.pace * r.uniform(0.85, 1.15))
        return str(numbers[name]) if name in numbers else _personal(r, name, language)

    def _road(self) -> str:
        """The stretch of road at the detector: which road and way, and the exit; some leave out the way."""
        line, exit_ = self.site % 8, self.site // 8 + 1
        road = p.ROADS[self.language][min(line // 2, 3)]
        way = p.WAYS[self.language][line % 2 + (2 if line >= 6 else 0)] if self.r.random() < 0.8 else ""
        if self.language == "zh":
            return f"{road}{way}{exit_}号出口"
        return (
            f"{road} {way} near exit {exit_}".replace("  ", " ")
            if self.r.random() < 0.7
            else f"exit {exit_} of {road} {way}".strip()
        )


def _pick(r: np.random.Generator, among: tuple[str, ...]) -> str:
    return among[int(r.integers(len(among)))]


def _some(r: np.random.Generator, among: tuple[str, ...], count: int) -> list[str]:
    return [among[i] for i in r.choice(len(among), count, replace=False)]


def _digits(r: np.random.Generator, count: int) -> str:
    return "".join(map(str, r.integers(0, 10, count).tolist()))


def _personal(r: np.random.Generator, name: str, language: str) -> str:
    """Personal data that nobody has, in the forms that people write them in."""
    first, last = p.NAMES[language]
    if name == "name":
        return f"{_pick(r, first)}{' ' if language == 'en' else ''}{_pick(r, last)}"
    if name == "mail":
        who, where = ("emma", "j.jansen", "wang", "lihua", "tom")[r.integers(5)], ("org", "com", "net")[r.integers(3)]
        return f"{who}{_digits(r, 2)}@example.{where}"
    if name == "phone" and language == "en":
        return (
            f"06-{_digits(r, 8)}",
            f"+31 6 {_digits(r, 4)} {_digits(r, 4)}",
            f"030 {_digits(r, 3)} {_digits(r, 4)}",
        )[r.integers(3)]
    if name == "phone":
        return f"1{('38', '59', '76', '91')[r.integers(4)]}{_digits(r, 8)}"
    letters = "".join(r.choice(list("BDFGHJKLNPRSTVXZ"), 5).tolist())
    if name == "plate":
        return (
            f"{letters[:2]}-{_digits(r, 3)}-{letters[2]}"
            if language == "en"
            else f"沪{letters[0]}·{letters[1]}{_digits(r, 4)}"
        )
    if language == "en":
        return _digits(r, 9)
    body = f"310101{r.integers(1950, 2005)}{r.integers(1, 13):02d}{r.integers(1, 29):02d}{_digits(r, 3)}"
    return body + "10X98765432"[sum(int(c) * 2 ** (17 - i) for i, c in enumerate(body)) % 11]


def _spelled(marked: str, r: np.random.Generator, language: str) -> tuple[str, tuple[tuple[int, int, str], ...]]:
    """The text with slips of typing and without its marks, and where they were, in code points."""
    slips = int(r.integers(1, 4)) if r.random() < TYPED else 0
    pieces = re.split(r"\[(jam|free)\|([^\]]*)\]", marked)
    text, spans = "", []
    for i in range(0, len(pieces), 3):
        text += _slip(pieces[i], r, language, slips)
        if i + 2 < len(pieces):
            phrase = _slip(pieces[i + 2], r, language, slips // 2)
            spans.append((len(text), len(text) + len(phrase), pieces[i + 1]))
            text += phrase
    if len(text) > LONGEST:
        text = text[:LONGEST].rstrip()
    if language == "en" and r.random() < 0.25:
        text = text.lower() if r.random() < 0.7 else text.upper()
    return text, tuple(s for s in spans if s[1] <= len(text))


def _slip(text: str, r: np.random.Generator, language: str, slips: int) -> str:
    """The text after so many tries to mistype it; digits stay, and what holds one as well (addresses, plates)."""
    for _ in range(slips):
        if len(text) < 4:
            return text
        at = int(r.integers(1, len(text) - 1))
        if language == "zh":
            text = text[:at] + p.ALIKE.get(text[at], text[at]) + text[at + 1 :]
        elif text[at - 1 : at + 2].isalpha():
            how = r.integers(3)
            middle = (text[at + 1] + text[at], "", text[at] * 2)[how]
            text = text[:at] + middle + text[at + (2 if how == 0 else 1) :]
    return text


@dataclass(frozen=True)
class Messages:
    """The feed as a contract asks for it. `kinds`: which annotations there are."""

    city: City
    daily: int | None
    kinds: frozenset[str]
    labelled: float = 0.5
    faults: Mapping[str, float] = field(default_factory=lambda: FAULTS)

    def batches(self, window: Window) -> Iterator[ItemBatch]:
        """Messages of the window, by time; what is sent again comes right after."""
        talk = Talk(self.city, self.daily)
        start, end = int(window.start.timestamp()), int(window.end.timestamp())
        rows: list[dict[str, Any]] = []
        truth: list[dict[str, Any]] = []
        # what is sent again comes minutes later, so the hour before the window may reach into it
        for hour in range(start // 3600 - 1, -(-end // 3600)):
            for said in talk.hour(hour):
                for row, fault, of in self._sent(said):
                    if start <= row["time"] < end:
                        rows.append(row)
                        if fault:
                            truth.append({"time": row["time"], "item": row["id"], "fault": fault, "of": of})
            if len(rows) >= BATCH:
                yield ItemBatch(_table(rows, TEXTS), {}, _table(truth, ITEM_TRUTH))
                rows, truth = [], []
        if rows:
            yield ItemBatch(_table(rows, TEXTS), {}, _table(truth, ITEM_TRUTH))

    def _sent(self, said: Said) -> Iterator[tuple[dict[str, Any], str, str | None]]:
        """(row, fault or "", what it repeats)."""
        r = rng(self.city.seed, "message fault", said.second, int(said.id.rpartition("-")[2]))
        seen = r.random() < self.labelled
        label = said.department
        if r.random() < MISROUTED:
            label = str(r.choice([d for d in p.DEPARTMENTS if d != label]))
        fault = self._fault(float(r.random()), seen, bool(said.spans))
        text, spans = said.text, [{"start": a, "end": b, "label": k} for a, b, k in said.spans]
        if fault == "empty":
            text, spans = ("", " ", " \n ")[r.integers(3)], []
        elif fault == "garbled":
            text, spans = _garbled(text, r), []
        elif fault == "long":
            text = " ".join([text] * (r.integers(6000, 20000) // max(len(text), 1) + 2))
        elif fault == "label":
            label = str(r.choice(WRONG))
        elif fault == "overlap":
            a, b, kind = said.spans[0]
            spans.append(
                {"start": max(a - 2, 0), "end": max(b - 1, a + 1), "label": "free" if kind == "jam" else "jam"}
            )
        row = {
            "time": said.second, "id": said.id, "text": text,
            "label": label if seen and "label" in self.kinds else None,
            "spans": spans if seen and "spans" in self.kinds else None,
        }  # fmt: skip
        yield row, "" if fault == "duplicate" else fault, None
        if fault == "duplicate":
            yield {**row, "time": said.second + int(r.integers(20, 1800)), "id": said.id + "b"}, fault, said.id

    def _fault(self, draw: float, seen: bool, marked: bool) -> str:
        for name, share in self.faults.items():
            chance = share
            if name in ("label", "overlap"):
                able = seen and ("label" if name == "label" else "spans") in self.kinds and (name == "label" or marked)
                often = share / max(self.labelled, share, 1e-9) * (1 if name == "label" else MARKED)
                chance = min(often, 0.5) if able else 0.0
            if draw < chance:
                return name
            draw -= chance
        return ""


def _garbled(text: str, r: np.random.Generator) -> str:
    """UTF-8 read as something else, or with characters that came from nowhere; never what it was."""
    how = int(r.integers(3))
    if how == 0 and not text.isascii():
        return text.encode().decode("latin-1")
    if how == 1 and not text.isascii():
        return text.encode("gb18030", "replace").decode("utf-8", "replace")
    at = sorted(r.choice(len(text) + 1, min(len(text) // 8 + 2, len(text) + 1), replace=False).tolist(), reverse=True)
    for i in at:
        text = text[:i] + ("\ufffd", "\x00", "\x07", "\x1b", "\ufffd")[r.integers(5)] + text[i:]
    return text


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    columns = {f.name: pa.array([row[f.name] for row in rows], f.type) for f in list(schema)[1:]}
    time = pa.array([row["time"] * 1_000_000 for row in rows], pa.int64()).cast(schema.field("time").type)
    return pa.Table.from_arrays([time, *columns.values()], schema=schema)
