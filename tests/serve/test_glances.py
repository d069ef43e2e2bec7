"""How tasks do, looked for beside what serves: little at a time, and whatever is wrong with it harms nothing."""

from pathlib import Path
from typing import Any

import pytest

from pipelines.core import files
from pipelines.release.objects import Unreachable
from pipelines.release.store import Store
from pipelines.serve.swap import Live, Serving
from pipelines.serve.watched import MOST, Glances
from pipelines.watch.kept import GLANCE, Kept


def served(*tasks: str) -> Live:
    live = Live()
    for task in tasks:
        live.put(Serving(task))
    return live


def test_every_task_has_its_turn_and_is_left_alone_until_it_is_due_again(tmp_path: Path) -> None:
    store, told = Store(str(tmp_path), tmp_path), dict[str, Any]()
    for task in ("a", "b"):
        Kept(store.objects, task).write(GLANCE, files.to_json({"task": task}))
    glances = Glances(store, served("a", "b", "c"), told)
    for count in (1, 2, 2):
        glances.look()
        assert len(told) == count
    Kept(store.objects, "a").write(GLANCE, files.to_json({"task": "again"}))
    for _ in range(5):
        glances.look()
    assert told == {"a": {"task": "a"}, "b": {"task": "b"}}


def test_what_is_new_is_told_and_what_is_gone_or_nonsense_is_not(tmp_path: Path) -> None:
    store, told = Store(str(tmp_path), tmp_path), dict[str, Any]()
    kept, glances = Kept(store.objects, "a"), Glances(store, served("a"), told, every_s=0)
    good = files.to_json({"until": "2025"})
    for data in (b"{", b"[1]", b"\xff", good[:-2] + b" " * MOST + b"}"):
        kept.write(GLANCE, good)
        glances.look()
        assert told == {"a": {"until": "2025"}}
        kept.write(GLANCE, data)
        glances.look()
        assert told == {}
    kept.objects.delete(kept.key(GLANCE))
    glances.look()
    assert told == {}


def test_what_was_told_last_stays_while_the_store_is_away(tmp_path: Path) -> None:
    where = tmp_path / "store"
    store, told = Store(str(where), tmp_path), dict[str, Any]()
    Kept(store.objects, "a").write(GLANCE, b'{"until": "2025"}')
    glances = Glances(store, served("a"), told, every_s=0)
    glances.look()
    (where / "monitor/a" / GLANCE).unlink()
    (where / "monitor/a" / GLANCE).mkdir()  # reading a folder fails as a disk does
    with pytest.raises(Unreachable):
        store.objects.get(f"monitor/a/{GLANCE}")
    glances.look()
    assert told == {"a": {"until": "2025"}}
    Glances(store, served(), told).look()
