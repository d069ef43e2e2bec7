"""How a champion does, on its page in a real MLflow store: told once for each day, kept, and no matter if it fails."""

import logging
import shutil
import socket
from pathlib import Path
from typing import Any

import carded
import pytest

from pipelines import card, register
from pipelines.core.paths import Paths
from pipelines.core.tracking import connect
from pipelines.release import page
from pipelines.release.store import Store
from pipelines.watch import shown
from pipelines.watch.kept import Kept

HERE = ("MLFLOW_TRACKING_URI", "CITYLOOP_STATE", "CITYLOOP_STORE")
"""What would have the city's registry and store lie elsewhere."""


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A city whose one task has a version in MLflow; and the version's digest."""
    root = tmp_path_factory.mktemp("shown") / "city"
    with pytest.MonkeyPatch.context() as patch:
        for name in HERE:
            patch.delenv(name, raising=False)
        carded.city(root)
        card.run(carded.TASK, root=root)
        (made,) = register.run(carded.TASK, root=root)
    return root, made["digest"]


def glance(digest: str, **more: Any) -> dict[str, Any]:
    week = {"from": "2025-04-01", "until": "2025-04-07", "model": 7.5, "scored": 9, "coverage": 0.93}
    told = {"champion": digest, "until": "2025-04-08T00:00:00Z", "metric": "mae", "unit": "ug/m3", "week": week,
            "gate": 8.25, "frozen_test": 6.9, "decision": "watch", "reasons": ["It is off.", "And more."]}  # fmt: skip
    return {**told, **more}


def test_a_version_says_how_it_does_once_a_day_and_registering_again_leaves_that(
    registered: tuple[Path, str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, digest = registered
    for name in HERE:
        monkeypatch.delenv(name, raising=False)
    paths = Paths(root)
    kept = Kept(Store.of(paths).objects, carded.TASK)

    def told() -> tuple[str, str]:
        with connect(paths) as tracking:
            version = tracking.version(carded.TASK, digest)
            assert version is not None
            folder = tracking.client.download_artifacts(version.run_id, "monitor")
            return str(version.description), (Path(folder) / "report.html").read_text()

    shown.tell(paths, kept, glance(digest), b"<p>one</p>")
    text, report = told()
    live = page.get(text, "Live") or ""
    assert "Until 2025-04-08: watch. MAE 7.5 ug/m3, 2025-04-01 to 2025-04-07 (gate 8.25, frozen test 6.9)" in live
    assert "the truth has come for 93% of the answers.\n\nIt is off.\n\nMore: the run's artifact" in live
    assert report == "<p>one</p>"
    register.run(carded.TASK, root=root)
    assert told()[0] == text
    shown.tell(paths, kept, glance(digest, until="2025-04-08T06:00:00Z"), b"<p>two</p>")
    assert told()[1] == "<p>one</p>"
    shown.tell(paths, kept, glance(digest, decision="fine", week=None), b"<p>three</p>")
    assert told()[1] == "<p>three</p>"
    assert "Until 2025-04-08: fine.\n" in (page.get(told()[0], "Live") or "")

    with socket.socket() as free, monkeypatch.context() as patch:
        free.bind(("127.0.0.1", 0))  # nobody listens there
        patch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free.getsockname()[1]}")
        with caplog.at_level(logging.WARNING, "cityloop"):
            shown.tell(paths, kept, glance(digest), b"<p>four</p>")
    assert any("is not brought up to date" in line for line in caplog.messages)
    shown.tell(paths, kept, glance(digest), b"<p>four</p>")
    assert told()[1] == "<p>four</p>"


def test_what_the_registry_does_not_know_or_is_not_used_is_no_trouble(
    registered: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("CITYLOOP_STATE", raising=False)
    root, _ = registered
    kept = Kept(Store(str(tmp_path / "store"), tmp_path).objects, carded.TASK)
    shown.tell(Paths(tmp_path), kept, glance("a" * 64), b"")
    assert kept.read(shown.LAST) is None
    shown.tell(Paths(root), kept, glance("a" * 64), b"")
    assert kept.read(shown.LAST)["champion"] == "a" * 64
    shutil.rmtree(tmp_path / "store")
    shown.tell(Paths(root), kept, glance("a" * 64, champion=None), b"")
    assert kept.read(shown.LAST) is None
