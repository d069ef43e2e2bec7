"""The page for pictures and messages, in a real browser: what is dropped or typed, and what is drawn on it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import posted
import pytest
from served import Place, eventually, serving

from pipelines.release import bundle

pages = pytest.importorskip("test_demo_page", reason="no playwright to drive a browser with")
pytestmark = pytest.mark.skipif(pages.CHROMIUM is None, reason="no Chromium: `make browser` installs it")
browser = pages.browser
TASKS = ("image_classify", "image_locate", "text_classify", "text_tag")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    place = Place(tmp_path_factory.mktemp("page"))
    for task in TASKS:
        bundle.write(place.root / task, posted.contents(*task.split("_")))
        place.point(place.store.put(task, place.root / task), task)
    place.store.keep_card("text_tag", place.store.pointer("text_tag").stable, "# text_tag\n\nMarks jams.")  # type: ignore
    with serving(place) as started:
        eventually(lambda: len(started.client().get("/readyz").json["tasks"]) == len(TASKS))
        yield pages.Server(f"http://127.0.0.1:{started.port}")


@contextlib.contextmanager
def opened(browser: Any, server: Any, task: str, **told: Any) -> Iterator[Any]:
    tab = pages.Tab(browser, server, **told)
    tab.open(task=task)
    tab.page.wait_for_selector("#panel :is(.drop, #message)")
    yield tab
    assert tab.fits()
    tab.close()
    assert tab.wrong == []


def dropped(tab: Any, data: bytes, name: str = "frame.png", kind: str = "image/png") -> None:
    tab.page.set_input_files("#picture", {"name": name, "mimeType": kind, "buffer": data})


def test_a_picture_is_classified_in_bars(browser: Any, server: Any, tmp_path: Path) -> None:
    with opened(browser, server, "image_classify") as tab:
        assert not tab.page.is_visible("#sensors")
        dropped(tab, posted.photo(300, 200, (250, 0, 0), "PNG"))
        assert "Most likely red" in tab.text("figcaption")
        assert tab.all(".shares th[scope=row]", "e.textContent")[0] == "red"
        assert tab.page.evaluate("document.querySelector('.picture img').naturalWidth") == 300
        width = tab.all(".shares rect", "e.getAttribute('width')")
        assert float(width[0].rstrip("%")) > 90
        tab.page.screenshot(path=tmp_path / "classify.png", full_page=True)


def test_boxes_are_drawn_where_they_are(browser: Any, server: Any, tmp_path: Path) -> None:
    with opened(browser, server, "image_locate") as tab:
        dropped(tab, posted.photo(400, 200, (255, 0, 0), "PNG"))
        assert tab.text("figcaption") == "Found: 1 × car."
        place = "e => { const r = e.getBoundingClientRect(); return [r.x, r.y, r.width, r.height] }"
        image, box = (tab.page.eval_on_selector(f".picture {s}", place) for s in ("img", "rect.box"))
        assert box == pytest.approx([image[0], image[1], image[2] / 2, image[3]], abs=3)
        tab.page.screenshot(path=tmp_path / "locate.png", full_page=True)
        dropped(tab, posted.photo(400, 200, (10, 0, 0), "PNG"))
        tab.page.wait_for_selector("figcaption:has-text('Nothing found.')")


def test_a_dropped_file_is_taken_and_a_bad_one_is_refused_in_a_line(browser: Any, server: Any) -> None:
    tab = pages.Tab(browser, server).open(task="image_classify")
    tab.page.wait_for_selector(".drop")
    tab.page.evaluate("""() => {
        const data = new DataTransfer();
        data.items.add(new File(["no picture"], "frame.jpg", { type: "image/jpeg" }));
        document.querySelector(".drop").dispatchEvent(new DragEvent("drop", { dataTransfer: data, cancelable: true }));
    }""")
    assert "picture: not_a_picture" in tab.text(".answered .said")
    tab.close()
    assert all("422" in line for line in tab.wrong)


def test_spans_are_marked_in_the_message(browser: Any, server: Any, tmp_path: Path) -> None:
    with opened(browser, server, "text_tag", viewport=pages.PHONE) as tab:
        tab.page.fill("#message", "車🚗 <b>on</b> the jam, ring jam")
        tab.page.click("text=Ask the model")
        assert tab.text("figcaption") == "Found: 2 × jam."
        assert tab.all(".message mark", "e.firstChild.textContent") == ["jam", "jam"]
        assert tab.text(".message").startswith("車🚗 <b>on</b> the jam")
        tab.page.screenshot(path=tmp_path / "tag.png", full_page=True)
        tab.page.click("#tabs a:has-text('Card')")
        assert "Marks jams." in tab.text("article.card")


def test_a_message_is_classified(browser: Any, server: Any) -> None:
    with opened(browser, server, "text_classify") as tab:
        tab.page.fill("#message", "jam on")
        tab.page.click("text=Ask the model")
        assert "Most likely even" in tab.text("figcaption")
        tab.page.fill("#message", "jam")
        tab.page.click("text=Ask the model")
        tab.page.wait_for_selector("figcaption:has-text('Most likely odd')")
