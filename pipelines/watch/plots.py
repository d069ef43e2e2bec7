"""Plots of a report as SVG: to be put into a page, whose style colours them, for light and dark alike.

Marks carry a <title>, which a pointer shows; every plot has one sentence that says what it shows.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, NamedTuple

from pipelines.models.evaluation.words import number

WIDTH, HEIGHT = 760, 250
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 16, 28
SHADES = 5
"""Colours of a map, l0 to l4."""
EDGE = 26
DEGREE_KM = 111.32
Values = Sequence[float | None]


class Line(NamedTuple):
    """Values one after the other; `look`: the class that colours it. dots: each is marked, and says its own."""

    name: str
    look: str
    values: Values
    dots: bool = False


class Rule(NamedTuple):
    """A value that all is held against."""

    name: str
    look: str
    value: float


class Spot(NamedTuple):
    """A sensor on the map."""

    latitude: float
    longitude: float
    value: float | None
    text: str
    district: str = ""
    ring: bool = False


def tag(name: str, *inside: str, **attributes: Any) -> str:
    """An element; `inside` is markup. `class_` and `text_anchor` are class and text-anchor; None is left out."""
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{told}>{''.join(inside)}</{name}>"


def titled(name: str, text: str, **attributes: Any) -> str:
    return tag(name, tag("title", escape(text)), **attributes)


@dataclass(frozen=True)
class Frame:
    """Where values and the names along the bottom lie in a plot."""

    low: float
    high: float
    count: int
    height: int = HEIGHT

    @classmethod
    def of(cls, known: Values, count: int, height: int = HEIGHT, zero: bool = True) -> "Frame":
        """That holds the known values, and zero where they are bars."""
        there = [v for v in known if v is not None] or [0.0, 1.0]
        low, high = min(there), max(there)
        if zero or low < (high - low):  # an axis that nearly begins at zero does
            low = min(0.0, low)
        return cls(low, high if high > low else low + 1, count, height)

    @property
    def ticks(self) -> list[float]:
        """Round values, about four."""
        rough = (self.high - self.low) / 4
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
        return [i * step for i in range(math.floor(self.low / step), math.ceil(self.high / step) + 1)]

    @property
    def each(self) -> float:
        """Pixels of one name."""
        return (WIDTH - LEFT - RIGHT) / max(1, self.count)

    def x(self, i: float) -> float:
        """The middle of number i."""
        return round(LEFT + (i + 0.5) * self.each, 1)

    def y(self, value: float) -> float:
        ticks = self.ticks
        share = (value - ticks[0]) / (ticks[-1] - ticks[0])
        return round(self.height - BOTTOM - share * (self.height - TOP - BOTTOM), 1)

    def axes(self, names: Sequence[str]) -> str:
        every = max(1, math.ceil(44 / self.each))
        lines = [tag("path", d=f"M{LEFT} {self.y(t)}H{WIDTH - RIGHT}") for t in self.ticks]
        values = [tag("text", number(t), x=LEFT - 8, y=self.y(t) + 4, text_anchor="end") for t in self.ticks]
        last = len(names) - 1
        shown = [i for i in range(len(names)) if (last - i) % every == 0]
        below = [tag("text", escape(names[i]), x=self.x(i), y=self.height - 8, text_anchor="middle") for i in shown]
        return tag("g", *lines, *values, *below, class_="axis")


def _picture(sentence: str, height: int, *inside: str, width: int = WIDTH) -> str:
    told = {"role": "img", "aria_label": sentence, "class_": "plot"}
    return tag("svg", *inside, viewBox=f"0 0 {width} {height}", xmlns="http://www.w3.org/2000/svg", **told)


def lines(sentence: str, names: Sequence[str], drawn: Sequence[Line], rules: Sequence[Rule], since: int | None) -> str:
    """Lines over `names`, against rules; from number `since` on the ground is shaded."""
    frame = Frame.of([*(v for line in drawn for v in line.values), *(r.value for r in rules)], len(names), zero=False)
    inside = [frame.axes(names)]
    if since is not None:
        left = frame.x(since - 0.5)
        shade = {"x": left, "y": TOP, "width": WIDTH - RIGHT - left, "height": HEIGHT - TOP - BOTTOM}
        inside.insert(0, titled("rect", f"the city has changed since {names[since]}", class_="changed", **shade))
    for rule in rules:
        path = f"M{LEFT} {frame.y(rule.value)}H{WIDTH - RIGHT}"
        inside.append(titled("path", f"{rule.name} {number(rule.value)}", class_=f"rule {rule.look}", d=path))
    for line in drawn:
        inside.append(tag("path", d=_path(frame, line.values), class_=f"line {line.look}"))
        for i, value in enumerate(line.values if line.dots else ()):
            if value is not None:
                told = f"{names[i]}: {line.name} {number(value)}"
                inside.append(titled("circle", told, cx=frame.x(i), cy=frame.y(value), r=4, class_=line.look))
    return _picture(sentence, HEIGHT, *inside)


def _path(frame: Frame, values: Values) -> str:
    """With gaps where nothing is known."""
    out, pen = [], "M"
    for i, value in enumerate(values):
        if value is None:
            pen = "M"
            continue
        out.append(f"{pen}{frame.x(i)} {frame.y(value)}")
        pen = "L"
    return "".join(out)


def bars(sentence: str, names: Sequence[str], bar: Line, beside: Sequence[Line] = (), height: int = 200) -> str:
    """A bar a name, and lines over them."""
    frame = Frame.of([v for line in (bar, *beside) for v in line.values], len(names), height)
    zero, wide = frame.y(0), max(1.0, frame.each * 0.7)
    inside = [frame.axes(names)]
    for i, value in enumerate(bar.values):
        if value is not None:
            top = frame.y(value)
            place = {"x": round(frame.x(i) - wide / 2, 1), "y": min(top, zero), "width": round(wide, 1)}
            told = f"{names[i]}: {bar.name} {number(value)}"
            inside.append(titled("rect", told, height=round(abs(zero - top), 1), class_=bar.look, **place))
    inside += [tag("path", d=_path(frame, line.values), class_=f"line {line.look}") for line in beside]
    return _picture(sentence, height, *inside)


def shade(value: float | None, bounds: Sequence[float]) -> str:
    """The class of a value's colour; bounds: ascending, one fewer than shades."""
    return "none" if value is None else f"l{sum(value > b for b in bounds)}"


def bounds(values: Sequence[float]) -> list[float]:
    """That part values into SHADES equal parts, each a different number."""
    ordered = sorted(values)
    return sorted({ordered[min(len(ordered) - 1, len(ordered) * i // SHADES)] for i in range(1, SHADES)})


def places(sentence: str, spots: Sequence[Spot], limits: Sequence[float]) -> str:
    """Sensors where they stand, to scale, the worst on top."""
    width = 520
    shrink = math.cos(math.radians(sum(s.latitude for s in spots) / len(spots)))
    east, north = [s.longitude * shrink for s in spots], [s.latitude for s in spots]
    across, up = (max(v) - min(v) or 0.01 for v in (east, north))
    height = round(min(460, max(200, (width - 2 * EDGE) * up / across + 2 * EDGE)))
    scale = min((width - 2 * EDGE) / across, (height - 2 * EDGE) / up)
    middle = (max(east) + min(east)) / 2, (max(north) + min(north)) / 2
    at = [
        (round(width / 2 + (x - middle[0]) * scale, 1), round(height / 2 - (y - middle[1]) * scale, 1))
        for x, y in zip(east, north, strict=True)
    ]
    marks, districts = [], dict[str, list[tuple[float, float]]]()
    for spot, (x, y) in sorted(zip(spots, at, strict=True), key=lambda each: each[0].value or -math.inf):
        districts.setdefault(spot.district, []).append((x, y))
        if spot.ring:
            marks.append(tag("circle", cx=x, cy=y, r=11, class_="ring"))
        marks.append(titled("circle", spot.text, cx=x, cy=y, r=7, class_=f"dot {shade(spot.value, limits)}"))
    for name in sorted(set(districts) - {""}):
        x, y = (round(sum(v) / len(v), 1) for v in zip(*districts[name], strict=True))
        marks.append(tag("text", escape(name), x=x, y=y - 12, text_anchor="middle", class_="district"))
    return _picture(sentence, height, *marks, _scale(scale / DEGREE_KM, height), width=width)


def _scale(per_km: float, height: int) -> str:
    """A length on the ground; per_km: pixels."""
    km = next((length for length in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if length * per_km >= 40), None)
    if km is None:
        return ""
    long, y = round(km * per_km), height - 6
    text = tag("text", f"{number(km)} km", x=16 + long, y=y)
    return tag("path", d=f"M8 {y - 4}v4h{long}v-4", class_="bar") + text
