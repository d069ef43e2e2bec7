"""The report of a week: one file that says what the summary says, loads nothing, and can be read by anybody."""

import dataclasses
import html.parser
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import toy_city
from click.testing import CliRunner

from pipelines import monitor, predict, status
from pipelines.__main__ import main
from pipelines.core import files, params
from pipelines.core.paths import Paths
from pipelines.release.store import Store
from pipelines.watch import plots, report, week
from pipelines.watch.kept import Kept

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
EVIL = """How <b>much</b>? <script>window.hacked = 1</script><img src="https://elsewhere.example/x" onerror=alert(1)>"""


class Page(html.parser.HTMLParser):
    """Elements in order, with attributes; raises AssertionError where they are not nested well."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag != "meta":
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy city, watched for four days."""
    root = tmp_path_factory.mktemp("report") / "city"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CITYLOOP_STATE", raising=False)
        patch.delenv("CITYLOOP_STORE", raising=False)
        toy_city.serving(toy_city.ready(tmp_path_factory), root, "joined", "features", "validated")
        files.write_json(Paths(root).metrics("evaluate", "ahead"), {"model": {"mae": 4.0}})
        predict.run("ahead", "2025-02-24T18:00:00Z", since="2025-02-21T00:00:00Z", every="6h", root=root)
        monitor.run("ahead", root=root)
    return root


def facts(root: Path, **drift: Any) -> report.Facts:
    kept = Kept(Store(str(root / ".cityloop/store"), root).objects, "ahead")
    summary = kept.read("summary.json")
    if drift:
        summary["drift"] = drift
    days = {day: kept.read(kept.day(day)) for day in kept.days()}
    channels = files.read_json(root / ".cityloop/store/releases/ahead" / summary["champion"] / "config.json")[
        "channels"
    ]
    channels = [
        {**c, "longitude": 5 + i / 100, "district": ("North", "<South>")[i % 2]} for i, c in enumerate(channels)
    ]
    found = week.of(days, lambda day: kept.read(kept.day(day, "sensors")), summary["champion"], (), channels)
    task = params.load(root).task("ahead").model_copy(update={"question": EVIL})
    return report.Facts("ahead", task, summary, found, week.glance(summary, found, "u"), [summary["decision"]])


DRIFT: dict[str, Any] = {
    "days": {
        day: {"tested": 5, "drifted": ["s1/a"] * n, "faults": ["s2/a"], "share": n / 5,
              "worst": [{"channel": "s1/a", "why": "level", "size": 2.5, "p": 1e-9}]}
        for day, n in (("2025-02-22", 0), ("2025-02-23", 2))
    },
    "changed_since": "2025-02-23", "faulty": {"s2/a": {"since": "2025-02-22", "why": "stuck <at> 3"}},
    "new_sensors": ["s9"], "sensors": 5, "skew": {"requests": 3, "compared": 100, "off": 0.07, "worst": []},
}  # fmt: skip


def test_monitor_writes_it_and_it_says_what_the_summary_says(city: Path) -> None:
    text = (city / ".cityloop/store/monitor/ahead/report.html").read_text()
    made, summary = Page(text), files.read_json(city / ".cityloop/store/monitor/ahead/summary.json")
    (figures,) = (roles["batch"] for roles in summary["releases"].values())
    assert f"{figures['model']['mae']:.4g}" in made.text
    for reason in summary["decision"]["reasons"]:
        assert reason in made.text
    points = [e for e in made.all("circle") if e.get("class") == "model"]
    assert len(points) == len(figures["by_day"]) == 4
    assert "4.8" in made.text  # the gate: a fifth above the frozen test's


def test_all_parts_are_there_and_what_others_wrote_stays_text(city: Path) -> None:
    made = Page(report.page(facts(city, **DRIFT)).decode())
    titles = [e["id"] for e in made.all("h2")]
    assert titles == ["decision", "time", "hours", "where", "drift", "decisions", "join"]
    assert EVIL in "".join(made.texts)
    assert "stuck <at> 3" in made.text
    assert "The city has changed since 23 Feb. On 23 Feb 2 of 5 channels were unlike it." in made.text
    assert "7 % were not what the features say" in made.text
    assert [e.get("class") for e in made.all("circle")].count("ring") == 2  # in the map, and in its key
    names = made.texts
    assert "<South>" in names
    for element, attributes in made.elements:
        assert element not in ("script", "img", "link", "iframe")
        assert not {"src", "href", "onload", "onerror"} & set(attributes)


def test_plots_have_a_sentence_and_marks_say_their_value(city: Path) -> None:
    given = facts(city, **DRIFT)
    made = Page(report.page(given).decode())
    sentences = [e["aria-label"] for e in made.all("svg") if e.get("role") == "img"]
    assert len(sentences) == 4
    assert all(sentences)
    assert given.week is not None
    for sensor, told in given.week["by_sensor"].items():
        broken = ", broken" if sensor == "s2" else ""
        assert f"{sensor}, {told['district']}, MAE {told['model']['mae']:.4g}{broken}" in made.texts


def test_equal_facts_give_equal_bytes_and_little_is_known_at_first(city: Path) -> None:
    given = facts(city)
    assert report.page(given) == report.page(facts(city))
    bare = dataclasses.replace(
        given, week=None, decisions=(), summary={**given.summary, "drift": None, "champion": None, "releases": {}},
        glance=week.glance({**given.summary, "drift": None, "champion": None}, None, ""),
    )  # fmt: skip
    made = Page(report.page(bare).decode())
    assert "nothing serves" in made.text
    assert "Nothing is known of it yet." in made.text


def test_an_axis_has_round_values_that_hold_all() -> None:
    for low, high in ((3.1, 17.0), (-2.0, 5.0), (1000.0, 1000.0), (0.0, 0.0007)):
        frame = plots.Frame.of([low, None, high], 3, zero=False)
        ticks = frame.ticks
        assert ticks[0] <= low <= high <= ticks[-1]
        assert 2 <= len(ticks) <= 7
        assert frame.y(ticks[0]) > frame.y(ticks[-1])


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: `make browser` installs it")
def test_a_browser_shows_it_on_a_phone_and_loads_nothing(city: Path, tmp_path: Path) -> None:
    api = pytest.importorskip("playwright.sync_api", reason="no playwright to drive a browser with")
    page = tmp_path / "report.html"
    page.write_bytes(report.page(facts(city, **DRIFT)))
    with api.sync_playwright() as playing:
        browser = playing.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        shown = browser.new_page(viewport={"width": 375, "height": 700})
        asked: list[str] = []
        trouble: list[str] = []
        shown.on("request", lambda request: asked.append(request.url))
        shown.on("console", lambda message: trouble.append(message.text))
        shown.goto(page.as_uri())
        assert shown.evaluate("document.documentElement.scrollWidth") == 375
        assert shown.evaluate("window.hacked") is None
        shades = set()
        for scheme in ("light", "dark"):
            shown.emulate_media(color_scheme=scheme)
            shades.add(shown.evaluate("getComputedStyle(document.querySelector('circle.model')).fill"))
        browser.close()
    assert asked == [page.as_uri()]
    assert trouble == []
    assert len(shades) == 2


def test_the_command_copies_it_out(city: Path, tmp_path: Path) -> None:
    out = tmp_path / "week.html"
    told = CliRunner().invoke(main, ["-C", str(city), "monitor", "ahead", "--report", str(out)])
    assert told.exit_code == 0, told.output
    assert out.read_bytes() == (city / ".cityloop/store/monitor/ahead/report.html").read_bytes()


def test_status_tells_it_in_a_line(city: Path) -> None:
    told = status.run(root=city)
    watched, summary = (
        told["tasks"]["ahead"]["watched"],
        files.read_json(city / ".cityloop/store/monitor/ahead/summary.json"),
    )
    assert told["tasks"]["state"]["watched"] is None
    (line,) = (row for row in status.table(told).splitlines() if row.startswith("ahead ") and " mae " in row)
    assert line.split()[:5] == ["ahead", summary["decision"]["decision"], f"{watched['week']['model']:.4g}", "u", "mae"]
    assert line.split()[5] == f"{summary['decision']['error']['gate']:.4g}" == "4.8"
