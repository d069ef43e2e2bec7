"""What a backbone may learn from: nothing after the cut reaches a byte of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_city import cached, city, hourly, kind, put, source, tree, window

from pipelines import corpus, features
from pipelines.core import grid
from pipelines.core.errors import UserError

KINDS = {"a": kind(), "leak": kind(aggregate="max", label=True)}


def build(root: Path, *names: str) -> dict[str, str]:
    """Features of `names`, then the corpus; its tree."""
    for name in names or ("x",):
        features.run(name, root=root)
    corpus.run("series", root=root)
    return tree(root / "data/corpus/series")


def part(root: Path, name: str = "x") -> grid.Series:
    return grid.Series.open(root / "data/corpus/series" / name)


def grown(root: Path, until: str = "2025-02-23", **more: Any) -> None:
    """Two sensors, one labelled, and a graph, up to a day within the month of the cut (20 February)."""
    city(root, {"x": source(kinds=KINDS), "y": source(step="15min")}, until=until, **more)
    rows = [*hourly("2025-01-20", until, "s3"), *hourly("2025-02-03", until, "s2")]
    put(root, "x", [*rows, *hourly("2025-01-20", until, "s3", "leak")], edges=[("s2", "s3")])
    put(root, "y", hourly("2025-01-20", until, "t1", minutes=15))


def test_days_sensors_and_roads_after_the_cut_change_no_byte(tmp_path: Path) -> None:
    grown(tmp_path)
    before = build(tmp_path, "x", "y")
    later = []
    for sensor in ("s1", "s2", "s3"):  # s1 is new, and sorts before the others
        later += hourly("2025-02-23", "2025-03-09", sensor)
    put(tmp_path, "x", later, edges=[("s2", "s3"), ("s1", "s2")])
    put(tmp_path, "y", hourly("2025-02-23", "2025-03-09", "t1", minutes=15))
    window(tmp_path, x="2025-03-09", y="2025-03-09")
    assert build(tmp_path, "x", "y") == before
    assert len(grid.Series.open(tmp_path / "data/features/series/x").channels) == 4  # the features did change


def test_a_sensor_that_first_speaks_on_the_day_of_the_cut_but_after_it_is_left_out(tmp_path: Path) -> None:
    cut = {"backbones": {"series": {"corpus": {"until": {"x": "2025-02-14T06:00:00"}}}}}
    city(tmp_path, {"x": source()}, **cut)
    put(tmp_path, "x", [*hourly("2025-01-20", "2025-03-01", "s2"), *hourly("2025-02-14", "2025-03-01", "s9")])
    before = build(tmp_path)
    put(
        tmp_path,
        "x",
        [r for s in ("s1", "s2", "s9") for r in hourly("2025-02-14", "2025-02-15", s) if s != "s1" or r[0].hour >= 6],
    )
    assert build(tmp_path) == before
    assert part(tmp_path).channels["sensor"].to_pylist() == ["s2", "s9"]
    assert np.isfinite(part(tmp_path).read()[:, 1]).sum() == 6


def test_a_late_change_before_the_cut_does_change_it(tmp_path: Path) -> None:
    grown(tmp_path)
    before = build(tmp_path, "x", "y")
    put(tmp_path, "y", hourly("2025-02-19", "2025-02-20", "t1", add=1.0, minutes=15))
    after = build(tmp_path, "x", "y")
    assert {name for name in before if before[name] != after[name]} == {"y/values/2025-02.npy"}  # not training data
    put(tmp_path, "y", hourly("2025-01-25", "2025-01-26", "t1", add=1.0, minutes=15))
    after = build(tmp_path, "x", "y")
    assert after["y/scalers.npy"] != before["y/scalers.npy"]
    assert after["y/values/2025-01.npy"] != before["y/values/2025-01.npy"]


def test_holds_the_features_up_to_the_cut_without_labels(tmp_path: Path) -> None:
    grown(tmp_path)
    build(tmp_path, "x", "y")
    whole, cut = grid.Series.open(tmp_path / "data/features/series/x"), part(tmp_path)
    assert cut.length == 31 * 24
    assert cut.splits == {"train": (0, 21 * 24), "validation": (21 * 24, 31 * 24), "test": (31 * 24, 31 * 24)}
    assert cut.channels["kind"].to_pylist() == ["a", "a"]
    kept = [i for i, label in enumerate(whole.channels["label"].to_pylist()) if not label]
    np.testing.assert_array_equal(cut.read(), whole.read(0, cut.length)[:, kept])
    np.testing.assert_allclose(cut.scalers, whole.scalers[:, kept], rtol=1e-6)
    assert cut.edges is not None
    assert len(cut.edges) == 1


def test_closed_months_are_links_and_the_cut_one_is_a_copy(tmp_path: Path) -> None:
    grown(tmp_path)
    build(tmp_path, "x", "y")
    mine, theirs = tmp_path / "data/corpus/series/y/values", tmp_path / "data/features/series/y/values"
    assert (mine / "2025-01.npy").samefile(theirs / "2025-01.npy")
    assert not (mine / "2025-02.npy").samefile(theirs / "2025-02.npy")
    with_labels = tmp_path / "data/corpus/series/x/values/2025-01.npy"  # a column had to go
    assert not with_labels.samefile(tmp_path / "data/features/series/x/values/2025-01.npy")


def test_links_are_replaced_and_never_written_through(tmp_path: Path) -> None:
    grown(tmp_path)
    build(tmp_path, "x", "y")
    mine, kept = tmp_path / "data/corpus/series", tmp_path / "cache"
    before = cached(mine, kept)
    put(tmp_path, "y", hourly("2025-01-20", "2025-02-23", "t1", add=1.0, minutes=15))
    features.run("y", root=tmp_path)
    assert tree(mine) == before == tree(kept)  # the corpus keeps its bytes until it is collected again
    assert build(tmp_path, "x", "y") != before
    assert tree(kept) == before


def test_symbolic_links_of_a_cache_are_followed(tmp_path: Path) -> None:
    grown(tmp_path)
    before = build(tmp_path, "x", "y")
    chunk = tmp_path / "data/features/series/y/values/2025-01.npy"
    chunk.rename(tmp_path / "cached")
    chunk.symlink_to(tmp_path / "cached")
    (tmp_path / "data/corpus/series/y/values/2025-01.npy").unlink()
    corpus.run("series", root=tmp_path)
    assert tree(tmp_path / "data/corpus/series") == before
    assert not (tmp_path / "data/corpus/series/y/values/2025-01.npy").is_symlink()


def test_until_moves_a_cut_and_a_source_that_left_the_city_goes(tmp_path: Path) -> None:
    grown(tmp_path, backbones={"series": {"corpus": {"until": {"y": "2025-02-01"}}}})
    build(tmp_path, "x", "y")
    assert part(tmp_path, "y").length == 12 * 96
    assert part(tmp_path, "y").splits["validation"] == (12 * 96, 12 * 96)
    assert sorted(p.name for p in (tmp_path / "data/corpus/series/y/values").glob("*")) == ["2025-01.npy"]
    city(tmp_path, {"x": source(kinds=KINDS)}, until="2025-02-23")
    build(tmp_path)
    assert [p.name for p in (tmp_path / "data/corpus/series").iterdir()] == ["x"]


def test_what_cannot_be_learnt_from_is_one_line(tmp_path: Path) -> None:
    grown(tmp_path)
    features.run("x", root=tmp_path)
    with pytest.raises(UserError, match=r"series/y: no features; run `cityloop features y`"):
        corpus.run("series", root=tmp_path)
    grown(tmp_path, backbones={"series": {"corpus": {"until": {"y": "2025-01-20"}}}})
    with pytest.raises(UserError, match=r"backbones\.series\.corpus\.until\.y: y has no values before 2025-01-20"):
        build(tmp_path, "x", "y")
