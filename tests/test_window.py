"""The one thing a scheduled run changes."""

import datetime as dt
from pathlib import Path

import pytest
from small_city import city, source

from pipelines import window
from pipelines.core import params
from pipelines.core.errors import UserError


def ends(root: Path) -> dict[str, str]:
    return {name: f"{end:%Y-%m-%dT%H:%M:%S}" for name, end in params.load(root).window.items()}


def test_moves_all_sources_or_some(tmp_path: Path) -> None:
    city(tmp_path, {"x": source(), "y": source()}, until="2025-03-01")
    window.run((), "2025-03-02", root=tmp_path)
    assert ends(tmp_path) == {"x": "2025-03-02T00:00:00", "y": "2025-03-02T00:00:00"}
    window.run(("y",), "2025-03-02T08:30:00+02:00", root=tmp_path)
    assert ends(tmp_path) == {"x": "2025-03-02T00:00:00", "y": "2025-03-02T06:30:00"}
    text = (tmp_path / "window.yaml").read_text()
    assert text == '# Machine-written: where each source\'s window ends.\nx: "2025-03-02"\ny: "2025-03-02T06:30:00Z"\n'
    inode = (tmp_path / "window.yaml").stat().st_ino
    window.run(("x",), "2025-03-02", root=tmp_path)
    assert (tmp_path / "window.yaml").stat().st_ino == inode


def test_goes_on_from_where_each_ends_or_to_now(tmp_path: Path) -> None:
    city(tmp_path, {"x": source(), "y": source()}, until="2025-03-01")
    window.run(("y",), "2025-03-02", root=tmp_path)
    window.run((), "+6h", root=tmp_path)
    assert ends(tmp_path) == {"x": "2025-03-01T06:00:00", "y": "2025-03-02T06:00:00"}
    before = dt.datetime.now(dt.UTC).replace(microsecond=0)
    window.run(("x",), "now", root=tmp_path)
    assert before <= params.load(tmp_path).window_end("x") <= dt.datetime.now(dt.UTC)
    with pytest.raises(UserError, match="--until: 'tomorrow' is not a duration"):
        window.run((), "+tomorrow", root=tmp_path)


def test_makes_the_file_where_there_is_none(tmp_path: Path) -> None:
    city(tmp_path, {"x": source()})
    (tmp_path / "window.yaml").unlink()
    window.run((), "2025-03-02", root=tmp_path)
    assert params.load(tmp_path).window_end("x") == dt.datetime(2025, 3, 2, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("sources", "until", "says"),
    [
        (("xx",), "2025-03-02", r"no source 'xx' in .*params\.yaml; did you mean 'x'\?"),
        ((), "tomorrow", r"--until: 'tomorrow' is not a date"),
        ((), "2025-01-20", r"--until 2025-01-20: the window of x starts on 2025-01-20; give a later date"),
    ],
)
def test_refuses_in_one_line_and_writes_nothing(
    tmp_path: Path, sources: tuple[str, ...], until: str, says: str
) -> None:
    city(tmp_path, {"x": source()}, until="2025-03-01")
    before = (tmp_path / "window.yaml").read_bytes()
    with pytest.raises(UserError, match=says):
        window.run(sources, until, root=tmp_path)
    assert (tmp_path / "window.yaml").read_bytes() == before
