"""The page at / in a real browser, on real servers: it draws what the API answers, and loads nothing from elsewhere."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import carded
import numpy as np
import pytest

from pipelines.core import files
from pipelines.core.paths import Paths
from pipelines.release import bundle, predictions
from pipelines.release.predictor import Predictor
from pipelines.release.store import Pointer, Store
from pipelines.serve import keys, routes
from pipelines.watch.kept import Kept

sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright to drive a browser with")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: `make browser` installs it")

Array = np.ndarray[Any, Any]
ROOT = Path(__file__).resolve().parents[2]
SPEC, N = carded.SPEC, len(carded.SENSORS)
HOUR = np.timedelta64(3600, "s")
START = np.datetime64("2025-03-27T23:00:00", "s")  # the clock goes on within what follows it
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 375, "height": 700}
MOST_BYTES = 72 << 10
EVIL = """air_quality answers: how much? <img src=x onerror="window.hacked = 1">

# <script>window.hacked = 2</script>air_quality

For the **environment** of `here <b>bold</b>`. [Click](javascript:window.hacked=3)

## Results

| metric | model <i>x</i> | last value |
|---|--:|--:|
| MAE | **3.806** | 4.932 |

- It says what is likely
- not what to do

    review.<your name> = approved:abc
"""


def contents(task: str, low: float = 0.9, **config: Any) -> dict[str, bytes]:
    """A toy bundle with places, whose answers change from step to step: mean of the context × scale + shift."""
    from safetensors.numpy import load, save

    made = carded.contents(task)
    told = json.loads(made["config.json"]) | config
    for i, channel in enumerate(told["channels"]):
        where = {"latitude": 52.08 + 0.01 * i, "longitude": 5.1 + 0.02 * i, "district": ("North", "South")[i % 2]}
        told["channels"][i] = {**where, **channel}
    scale, shift = _rows(told["names"], low)
    tables, golden = load(made["tables.safetensors"]), load(made["golden.safetensors"])
    tables |= {"decision": np.ones(len(told["names"]), np.float32), "misfit": np.full(N, 0.1, np.float32)}
    golden["answer"] = golden["input.values"].mean(1)[:, None, :, None] * scale + shift
    more = {"tables.safetensors": save(tables), "golden.safetensors": save(golden), "config.json": files.to_json(told)}
    return {**made, "model.onnx": _graph(scale, shift), **more}


def _rows(names: list[str], low: float) -> tuple[Array, Array]:
    """[1, horizon, 1, names] each: quantiles that drift apart, or shares of classes that cross."""
    steps = np.linspace(0, 1, SPEC.horizon, dtype=np.float32)
    if "q0.5" in names:
        scale = np.stack([low - 0.2 * steps, 1 + 0 * steps, 1.1 + 0.3 * steps, 1 + 0 * steps], -1)
        shift = np.repeat(3 * np.sin(6 * steps)[:, None], 4, -1)
    else:
        shift = np.stack([0.7 - 0.6 * steps, 0.2 + 0 * steps, 0.1 + 0.6 * steps], -1)
        scale = 0 * shift
    return scale[None, :, None].astype(np.float32), shift[None, :, None].astype(np.float32)


def _graph(scale: Array, shift: Array) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("ReduceMean", ["values", "axis"], ["mean"], keepdims=1),
        helper.make_node("Unsqueeze", ["mean", "last"], ["column"]),
        helper.make_node("Mul", ["column", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "shift"], ["answer"]),
    ]
    constants = {"axis": np.array([1], np.int64), "last": np.array([3], np.int64), "scale": scale, "shift": shift}
    graph = helper.make_graph(
        nodes, "toy",
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, ["b", SPEC.context, "n"])],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["b", SPEC.horizon, "n", scale.shape[-1]])],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def readings(seed: int = 1) -> Array:
    return np.random.default_rng(seed).uniform(5, 30, (SPEC.context, N)).astype(np.float32).round(2)


WEATHER = [
    *({"sensor": s, "kind": "pm25", "unit": "ug/m3", "role": "target"} for s in carded.SENSORS[:2]),
    {"sensor": carded.SENSORS[0], "kind": "temperature", "unit": "degC", "role": "input"},
]
GLANCE: dict[str, Any] = {
    "until": "2025-03-28T00:00:00Z", "metric": "mae", "unit": "ug/m3", "gate": 4.2, "frozen_test": 3.5,
    "decision": "retrain", "since": "2025-03-26", "reasons": ["The city <b>has changed</b>.", "The error is above."],
    "week": {"from": "2025-03-21", "until": "2025-03-27", "model": 4.914, "coverage": 0.9},
    "drift": {"day": "2025-03-27", "tested": 3, "drifted": 2, "faulty": 1, "new_sensors": 0,
              "changed_since": "2025-03-26"},
}  # fmt: skip
TASKS: dict[str, dict[str, Any]] = {
    "air_quality": {},
    "leaks": {"objective": "anomaly", "reconstruct": True, "alarm": {"span": 2, "threshold": 1.5}},
    "state": {"objective": "classify", "names": ["low", "mid", "high"], "question": "Low, or <b>high</b>?"},
    "weather": {"channels": WEATHER, "targets": 2},
}


def promote(root: Path, task: str, seq: int = 1, **more: Any) -> str:
    store, folder = Store.of(Paths(root)), root / "made" / f"{task}-{seq}"
    bundle.write(folder, contents(task, **TASKS[task], **more))
    digest = store.put(task, folder)
    store.point(Pointer(task, seq, digest, versions={digest: str(seq + 2)}))
    return digest


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with four tasks, one of them forecast in a batch, and a fifth whose release is not there."""
    root = tmp_path_factory.mktemp("page")
    digests = {task: promote(root, task) for task in TASKS}
    store = Store.of(Paths(root))
    store.point(Pointer("lost", 1, "0" * 64))
    store.keep_card("air_quality", digests["air_quality"], EVIL)
    for task, told in {"air_quality": GLANCE, "leaks": {**GLANCE, "decision": 7}}.items():
        Kept(store.objects, task).write("glance.json", files.to_json({**told, "champion": digests[task]}))
    predictor = Predictor.load(store.fetch("air_quality", digests["air_quality"]))
    answer = predictor.predict(readings()[None], np.array([START - SPEC.context * HOUR]))[0]
    issued = START.astype("datetime64[us]")
    forecast = predictions.Answered("air_quality", predictor, "batch", "batch-1", issued, issued, answer)
    predictions.publish(store.objects, forecast)
    return root


@dataclass(frozen=True)
class Server:
    address: str

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.address}{path}", timeout=10) as answer:
            return json.loads(answer.read())

    def post(self, task: str, body: Any) -> Any:
        headers = {"content-type": "application/json"}
        url = f"{self.address}/v1/tasks/{task}/predict"
        with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)) as answer:
            return json.loads(answer.read())


@contextlib.contextmanager
def serving(root: Path, *words: str) -> Iterator[Server]:
    log = root / f"serve-{len(list(root.glob('serve-*')))}.log"
    command = [sys.executable, "-m", "pipelines", "-C", str(root), "serve", "--port", "0", *words]
    here = {k: v for k, v in os.environ.items() if not k.startswith("CITYLOOP_")} | {"OMP_NUM_THREADS": "1"}
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=ROOT, env=here, stdout=out, stderr=out)
    try:
        found = until(lambda: re.search(r"serving on (http://127\.0\.0\.1:\d+)", log.read_text()), log.read_text)
        server = Server(found[1])
        until(lambda: _ready(server) >= set(TASKS), log.read_text)
        yield server
    finally:
        process.terminate()
        process.wait(20)


def _ready(server: Server) -> set[str]:
    try:
        return {task for task, ready in server.get("/readyz")["tasks"].items() if ready}
    except (urllib.error.URLError, ConnectionError):
        return set()


def until(found: Any, why: Any = lambda: "", seconds: float = 20) -> Any:
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, why()
        time.sleep(0.05)
    return value


@pytest.fixture(scope="module")
def server(city: Path) -> Iterator[Server]:
    """Open to all; `leaks` and `weather` have been asked."""
    with serving(city, "--no-auth") as started:
        hours = [f"{t}Z" for t in np.datetime_as_string(START + (np.arange(SPEC.context) - SPEC.context) * HOUR)]
        values = readings(2)
        values[-4:, 1] *= 5  # what a leak does here
        values[10, 0] = np.nan
        rows = [[None if np.isnan(v) else float(v) for v in row] for row in values]
        started.post("leaks", {"times": hours, "sensors": list(carded.SENSORS), "values": rows})
        named = {"sensors": ["mast_1", "mast_1", "mast_2"], "kind": ["temperature", "pm25", "pm25"]}
        started.post("weather", {"times": hours, **named, "values": rows})
        yield started


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as driver:
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        started = driver.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield started
        started.close()


class Tab:
    """A page of the browser that remembers what went wrong and what was asked for."""

    def __init__(self, browser: Any, server: Server, viewport: dict[str, int] = DESKTOP, **more: Any) -> None:
        self.server = server
        self.context = browser.new_context(viewport=viewport, timezone_id="America/New_York", **more)
        self.context.set_default_timeout(10_000)
        self.page = self.context.new_page()
        self.wrong: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda m: self.wrong.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def open(self, **where: str) -> "Tab":
        self.page.goto(f"{self.server.address}/#{'&'.join(f'{k}={v}' for k, v in where.items())}")
        return self

    def text(self, selector: str) -> str:
        self.page.wait_for_selector(selector)
        return str(self.page.inner_text(selector))

    def all(self, selector: str, script: str) -> Any:
        return self.page.eval_on_selector_all(selector, f"all => all.map(e => {script})")

    def choose(self, sensor: str) -> None:
        self.page.click(f"#sensors li:has-text('{sensor}')")
        self.page.wait_for_selector(f"#panel h3:has-text('{sensor}')")

    def fits(self) -> bool:
        return bool(self.page.evaluate("document.documentElement.scrollWidth <= innerWidth"))

    def close(self) -> None:
        self.context.close()
        assert {url.split("/")[2] for url in self.asked} <= {self.server.address.split("/")[2]}, self.asked


@pytest.fixture
def tab(browser: Any, server: Server) -> Iterator[Tab]:
    opened = Tab(browser, server)
    yield opened
    opened.close()
    assert opened.wrong == []


@pytest.fixture
def phone(browser: Any, server: Server) -> Iterator[Tab]:
    opened = Tab(browser, server, PHONE, has_touch=True, is_mobile=True, color_scheme="dark")
    yield opened
    opened.close()
    assert opened.wrong == []


def column(server: Server, task: str, sensor: str, name: str) -> list[Any]:
    values: list[Any] = server.get(f"/v1/tasks/{task}/forecast?sensor={sensor}")["columns"][name]
    return values


def drawn(tab: Tab, selector: str) -> Array:
    """The points of a path in the chart's first pane, in the units of its axis, as its texts have them."""
    marks = tab.all("#panel .plot svg g.axis:first-of-type text.y", "[Number(e.dataset.y), e.textContent]")
    y = np.array([mark[0] for mark in marks])
    value = np.array([float(mark[1].replace("−", "-").replace(",", "")) for mark in marks])
    slope, base = np.polyfit(y, value, 1)
    path = tab.all(f"#panel .plot {selector}", "e.getAttribute('d')")[0]
    points = np.array([[float(v) for v in p] for p in re.findall(r"[ML]([\d.-]+) ([\d.-]+)", path)])
    return np.asarray(points[:, 1] * slope + base)


def test_the_tasks_are_told_and_one_that_is_not_loaded_too(tab: Tab, server: Server, tmp_path: Path) -> None:
    tab.open()
    told = {task: tab.text(f"a[data-task={task}]") for task in (*TASKS, "lost")}
    summary = {t["task"]: t for t in server.get("/v1/tasks")["tasks"]}
    for part in ("environment", "forecasts", "How much?", "version 3", summary["air_quality"]["digest"][:12], "loaded"):
        assert part in told["air_quality"]
    assert "raises alarms" in told["leaks"]
    assert "tells classes" in told["state"]
    assert "Low, or <b>high</b>?" in told["state"]
    assert "not loaded" in told["lost"]
    tab.page.click("a[data-task=lost]")
    tab.page.wait_for_selector("#said:has-text('lost is not loaded')")
    assert not tab.page.is_visible("#task")
    assert tab.page.get_attribute("a[data-task=lost]", "aria-current") == "true"
    tab.page.screenshot(path=tmp_path / "not_loaded.png")


def test_how_a_watched_task_does_is_told_at_a_glance(tab: Tab, server: Server, tmp_path: Path) -> None:
    told = until(lambda: {t["task"]: t.get("watched") for t in server.get("/v1/tasks")["tasks"]}.get("air_quality"))
    assert told["week"]["from"] == "2025-03-21"
    assert server.get("/v1/tasks/air_quality")["watched"] == told
    tab.open(task="air_quality")
    line = tab.text("a[data-task=air_quality] .how")
    assert line == "↻ to be trained anew · live MAE 4.91 µg/m³ (gate 4.2) · city changed since 2025-03-26 · 1 broken"
    assert tab.text("#how") == "Readings until 2025-03-28: The city <b>has changed</b>. The error is above."
    tab.page.screenshot(path=tmp_path / "watched.png", full_page=True)
    tab.page.click("a[data-task=leaks]")
    tab.page.wait_for_selector("#task-title:has-text('leaks')")
    assert not tab.page.is_visible("#how")
    assert tab.all("a[data-task=leaks] .how, a[data-task=state] .how", "1") == []


def test_it_is_painted_before_there_are_data(tab: Tab) -> None:
    held: list[Any] = []
    tab.page.route("**/v1/**", lambda route: held.append(route))
    tab.open()
    assert tab.text("h1") == "Cityloop"
    assert "Loading" in tab.text("#tasks")
    for route in held:
        route.continue_()
    tab.page.unroute("**/v1/**")
    assert "air_quality" in tab.text("#tasks a")


def test_the_chart_of_a_batch_forecast_shows_the_apis_numbers(tab: Tab, server: Server, tmp_path: Path) -> None:
    tab.open(task="air_quality")
    tab.choose("mast_2")
    assert tab.text(".of").startswith("Newest batch forecast, as of Fri, 28 Mar 2025, 00:00,")
    middle, low, high = (column(server, "air_quality", "mast_2", q) for q in ("q0.5", "q0.1", "q0.9"))
    tab.page.wait_for_selector(".plot path.median")
    assert drawn(tab, "path.median") == pytest.approx(middle, abs=0.02)
    assert drawn(tab, "path.band") == pytest.approx([*high, *low[::-1]], abs=0.02)
    titles = tab.all("#panel .plot text.title", "e.textContent")
    assert titles == ["pm25, µg/m³", "Fri, 28 Mar 2025", "local time, Europe/Amsterdam"]
    tab.page.hover("#panel .plot rect.area")
    assert re.match(r"Fri, 28 Mar 2025, 1\d:00: 10 % [\d.]+, median [\d.]+, 90 % [\d.]+, mean", tab.text(".readout"))
    tab.page.click("summary")
    cells = tab.all(".numbers tbody tr", "[...e.children].map(c => c.textContent)")
    assert [[float(v.replace("−", "-")) for v in row[1:4]] for row in cells] == [
        pytest.approx(row, rel=1e-4) for row in zip(low, middle, high, strict=True)
    ]
    local = ZoneInfo("Europe/Amsterdam")
    times = [np.datetime64(t[:-1]).item().replace(tzinfo=ZoneInfo("UTC")).astimezone(local)
             for t in column(server, "air_quality", "mast_2", "time")]  # fmt: skip
    assert [row[0][-5:] for row in cells] == [f"{t:%H:%M}" for t in times]
    summary = tab.text("figcaption")
    assert summary == tab.page.get_attribute("#panel .plot svg", "aria-label")
    assert f"between {low[-1]:.3g} and {high[-1]:.3g} µg/m³" in summary
    tab.page.screenshot(path=tmp_path / "forecast.png", full_page=True)


def test_classes_of_the_golden_example_are_shares_of_each_step(tab: Tab, server: Server, tmp_path: Path) -> None:
    tab.open(task="state", sensor="mast_3")
    assert tab.text(".of").startswith("Golden example of the release")
    tab.page.wait_for_selector("g.shares rect")
    heights = np.array(tab.all("g.shares rect", "Number(e.getAttribute('height'))")).reshape(SPEC.horizon, 3)
    said = np.array([column(server, "state", "mast_3", name) for name in ("low", "mid", "high")]).T
    assert heights / heights.sum(1, keepdims=True) == pytest.approx(said / said.sum(1, keepdims=True), abs=2e-3)
    assert drawn(tab, "path.read").size > SPEC.horizon
    assert re.match(r"Expected at mast_3: low \+1 h to \+\d+ h \(70 %\), then high", tab.text("figcaption"))
    assert tab.all("#map-key li", "e.textContent") == ["low"]
    tab.page.screenshot(path=tmp_path / "classes.png", full_page=True)


def test_alarms_of_a_request_are_marked_among_its_readings(tab: Tab, server: Server, tmp_path: Path) -> None:
    tab.open(task="leaks", sensor="mast_2")
    assert tab.text(".of").startswith("Newest answered request")
    alarms = sum(column(server, "leaks", "mast_2", "alarm"))
    assert alarms > 0
    tab.page.wait_for_selector("g.scores rect.alarm")
    assert len(tab.all("g.scores rect.alarm", "1")) == len(tab.all("g.values rect.alarm", "1")) == alarms
    shown = drawn(tab, "path.read")
    told = server.get("/v1/tasks/leaks/forecast?sensor=mast_2")["observed"]["value"]
    assert shown == pytest.approx(told[-len(shown) :], abs=0.1)
    assert f"in {alarms} of 24 steps" in tab.text("figcaption")
    assert "alarm" in tab.text("#sensors li:has-text('mast_2')")
    tab.page.screenshot(path=tmp_path / "alarms.png", full_page=True)


def test_readings_told_with_a_forecast_are_those_of_the_kind_that_is_answered(server: Server) -> None:
    told = server.get("/v1/tasks/weather/forecast?sensor=mast_1")
    values = readings(2)
    assert told["of"] == "request"
    assert told["observed"]["value"][:-4] == pytest.approx(values[:-4, 1])  # the second named; the first is warmth
    example = server.get("/v1/tasks/weather/forecast?sensor=mast_1&of=example")
    assert example["of"] == "example"
    assert example["observed"]["step"][-1] == 0
    assert len(example["observed"]["value"]) == SPEC.context


def test_a_card_is_rendered_and_stays_text(tab: Tab, tmp_path: Path) -> None:
    tab.open(task="air_quality", show="card")
    card = tab.text("article.card")
    assert "<script>window.hacked = 2</script>air_quality" in card
    assert "review.<your name> = approved:abc" in card
    tags = set(tab.all("article.card *", "e.localName"))
    plain = "p h3 h4 strong code div table thead tbody tr th td ul li pre"
    assert tags == set(plain.split())
    assert tab.all("article.card td.number", "e.textContent") == ["3.806", "4.932"]
    assert tab.all("article.card li", "e.textContent") == ["It says what is likely", "not what to do"]
    assert tab.page.evaluate("window.hacked") is None
    tab.page.screenshot(path=tmp_path / "card.png", full_page=True)


def test_a_release_without_a_card_says_so(browser: Any, server: Server) -> None:
    tab = Tab(browser, server).open(task="leaks", show="card")
    assert "the store has no card of leaks" in tab.text("#panel .said")
    assert tab.page.is_visible("#sensors")
    tab.close()
    assert all("404" in line for line in tab.wrong)  # the browser's own line


def test_sensors_are_found_by_keyboard_search_and_map(tab: Tab) -> None:
    tab.open(task="air_quality")
    tab.page.wait_for_selector("#panel h3:has-text('mast_1')")
    tab.page.focus("#sensors")
    tab.page.keyboard.press("ArrowDown")
    tab.page.wait_for_selector("#panel h3:has-text('mast_2')")
    active = tab.page.get_attribute("#sensors", "aria-activedescendant")
    assert tab.page.get_attribute(f"#{active}", "aria-selected") == "true"
    assert "mast_2" in tab.text(f"#{active}")
    tab.page.keyboard.press("End")
    tab.page.wait_for_selector("#panel h3:has-text('mast_3')")
    tab.page.focus("#tabs a:nth-child(2)")
    tab.page.keyboard.press("Enter")
    tab.page.wait_for_selector("#readings")
    assert tab.page.evaluate("document.activeElement.textContent") == "Try it"
    tab.page.focus("#tabs a:nth-child(1)")
    tab.page.keyboard.press("Enter")
    tab.page.wait_for_selector(".plot path.median")
    tab.page.fill("#find", "south")
    assert tab.all("#sensors li .name", "e.textContent") == ["mast_2"]
    tab.page.fill("#find", "nowhere")
    assert tab.text("#found") == "No sensor is called so."
    assert len(tab.all("#map circle", "1")) == N
    tab.page.click("#map circle:has(title:has-text('mast_1'))")
    tab.page.wait_for_selector("#panel h3:has-text('mast_1')")
    tab.page.select_option("#colour", "district")
    assert tab.all("#map-key li", "e.textContent") == ["North", "South"]


def test_what_is_typed_is_asked_of_the_model_and_drawn(tab: Tab, server: Server, tmp_path: Path) -> None:
    tab.open(task="air_quality", sensor="mast_1", show="try")
    times = [line.split(",")[0] for line in tab.page.input_value("#readings").splitlines()]
    assert len(times) == SPEC.context
    values = [10 + i % 5 for i in range(len(times) - 1)] + [None]
    tab.page.fill("#readings", "\n".join(f"{t}, {v or ''}" for t, v in zip(times, values, strict=True)))
    tab.page.click("text=Ask the model")
    told = tab.text("form .of")
    assert re.search(r"Answered in [\d.]+ ms, there and back, by version 3, digest [0-9a-f]{12}; request", told)
    rows = [{"time": t, "sensor": "mast_1", "value": v} for t, v in zip(times, values, strict=True)]
    answer = server.post("air_quality", {"rows": rows, "format": "columns"})["columns"]
    tab.page.wait_for_selector("form .plot path.median")
    assert drawn(tab, "path.median") == pytest.approx(answer["q0.5"], abs=0.02)
    tab.page.screenshot(path=tmp_path / "try.png", full_page=True)
    tab.page.click("text=As JSON")
    body = json.loads(tab.page.input_value("#readings"))
    assert body["rows"][0]["sensor"] == "mast_1"
    body["rows"] = [{**row, "value": 20.0} for row in body["rows"]]
    tab.page.fill("#readings", json.dumps({"rows": body["rows"]}))
    tab.page.click("text=Ask the model")
    tab.page.wait_for_function("old => document.querySelector('form .of').textContent !== old", arg=told)
    level = server.post("air_quality", {"rows": body["rows"], "format": "columns"})["columns"]["q0.5"]
    tab.page.wait_for_selector("form .plot path.median")
    assert drawn(tab, "path.median") == pytest.approx(level, abs=0.02)
    tab.page.fill("#readings", "yesterday, 3")
    tab.page.click("text=Ask the model")
    assert "Line 1 is not a time" in tab.text("form .said")


def test_a_refusal_is_shown_beside_the_form(browser: Any, server: Server) -> None:
    tab = Tab(browser, server).open(task="air_quality", sensor="mast_1", show="try")
    tab.page.fill("#readings", '{"rows": []}')
    tab.page.click("text=Ask the model")
    assert "rows: expected a list" in tab.text("form .said")
    tab.close()
    assert all("422" in line for line in tab.wrong)


def test_a_server_that_fails_is_said_in_a_line_and_the_rest_stays(browser: Any, server: Server) -> None:
    tab = Tab(browser, server).open(task="air_quality", sensor="mast_1")
    tab.page.wait_for_selector(".plot path.median")
    tab.page.route("**/forecast?**", lambda route: route.fulfill(status=503, body='{"error": "the store is away"}'))
    tab.page.click("#sensors li:has-text('mast_2')")
    assert tab.text("#panel .said") == "the store is away"
    tab.page.unroute("**/forecast?**")
    tab.page.route("**/forecast?**", lambda route: route.abort())
    tab.page.click("#sensors li:has-text('mast_3')")
    tab.page.wait_for_selector("#panel .said:has-text('The server does not answer')")
    assert tab.page.is_visible("#map")
    tab.page.unroute("**/forecast?**")
    tab.page.click("#sensors li:has-text('mast_1')")
    tab.page.wait_for_selector(".plot path.median")
    tab.close()


def test_addresses_that_lead_nowhere_are_said(tab: Tab) -> None:
    tab.open(task="nothing")
    tab.page.wait_for_selector("#said:has-text('There is no task nothing here.')")
    assert tab.text("#task-title") == "air_quality"
    tab.open(task="air_quality", sensor="mast_9")
    tab.page.wait_for_selector("#said:has-text('answers no sensor mast_9')")


def test_a_release_promoted_meanwhile_is_shown(browser: Any, server: Server, city: Path) -> None:
    tab = Tab(browser, server)
    tab.page.clock.install()
    tab.open(task="weather", sensor="mast_2")
    before = tab.text("a[data-task=weather] .who")
    digest = promote(city, "weather", seq=2, low=0.5)
    until(lambda: server.get("/v1/tasks/weather")["digest"] == digest)
    tab.page.clock.fast_forward(31_000)
    tab.page.wait_for_selector(f"a[data-task=weather] .who:has-text('version 4 · {digest[:12]}')")
    assert digest[:12] not in before
    tab.page.wait_for_selector("#panel .of:has-text('not the release that answers now')")
    tab.close()


def test_a_key_is_asked_for_and_kept_in_the_tab_alone(browser: Any, city: Path, tmp_path: Path) -> None:
    key = keys.add("ada", ("air_quality",), root=city)
    with serving(city) as server:
        tab = Tab(browser, server).open()
        tab.page.wait_for_selector("#door")
        assert tab.page.evaluate("document.activeElement.id") == "key"
        assert not tab.page.is_visible("#task")
        tab.page.screenshot(path=tmp_path / "door.png")
        tab.page.fill("#key", "guessed")
        tab.page.keyboard.press("Enter")
        tab.page.wait_for_selector("#said:has-text('this key is not known here')")
        tab.page.fill("#key", key)
        tab.page.keyboard.press("Enter")
        tab.page.wait_for_selector(".plot path.median")
        assert not tab.page.is_visible("#door")
        assert tab.all("#tasks a", "e.dataset.task") == ["air_quality"]
        assert tab.page.evaluate("[sessionStorage.length, localStorage.length, document.cookie]") == [1, 0, ""]
        assert key not in tab.page.url
        tab.page.reload()
        tab.page.wait_for_selector(".plot path.median")
        tab.page.click("text=Forget key")
        tab.page.wait_for_selector("#door")
        assert tab.page.evaluate("sessionStorage.length") == 0
        tab.close()
        assert all("401" in line for line in tab.wrong)


def test_a_phone_shows_it_without_scrolling_sideways(phone: Tab, tmp_path: Path) -> None:
    for task, show in (("air_quality", "forecast"), ("leaks", "forecast"), ("state", "try"), ("air_quality", "card")):
        phone.open(task=task, sensor="mast_2", show=show)
        shown = {"forecast": ".plot path.median", "try": "#readings", "card": "article.card"}
        phone.page.wait_for_selector(shown[show])
        assert phone.fits(), (task, show)
        phone.page.screenshot(path=tmp_path / f"phone_{task}_{show}.png", full_page=True)
    phone.open(task="air_quality")
    phone.page.tap("#sensors li:has-text('mast_3')")
    phone.page.wait_for_selector("#panel h3:has-text('mast_3')")
    # What was chosen comes into sight, scrolling.
    phone.page.wait_for_function("document.querySelector('#task-title').getBoundingClientRect().top < 50")


def test_the_files_are_few_safe_and_load_nothing_from_elsewhere(server: Server) -> None:
    total = 0
    for path in ("", *(f"page/{p.name}" for p in sorted(routes.PAGE.iterdir()))):
        with urllib.request.urlopen(f"{server.address}/{path}") as answer:
            body, headers = answer.read().decode(), answer.headers
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
        assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", body)
        assert "innerHTML" not in body
        total += len(body.encode()) if path else 0
    assert total < MOST_BYTES


def test_texts_stand_out_in_light_and_dark() -> None:
    themes = re.findall(r":root \{(.*?)\}", (routes.PAGE / "page.css").read_text(), re.DOTALL)
    assert len(themes) == 2
    for theme in themes:
        colour = dict(re.findall(r"--([\w-]+): (#\w+)", theme))
        pairs = [(front, back) for front in ("text", "soft", "accent") for back in ("box", "ground")]
        for front, back in [*pairs, ("on", "accent"), ("bad", "bad-box")]:
            assert contrast(colour[front], colour[back]) >= 4.5, (front, back)


def contrast(one: str, other: str) -> float:
    """As WCAG 2 has it."""

    def light(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
        shares = np.array([int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)])
        linear = np.where(shares <= 0.03928, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)
