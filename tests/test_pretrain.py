"""Pretraining through the room: a backbone from a corpus, the same each time, and no worse than it began."""

import datetime as dt
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import toy_city
from safetensors.numpy import load_file
from small_city import START, city, source, tree

from pipelines import pretrain
from pipelines.core import files, grid, params
from pipelines.core.errors import UserError
from pipelines.models import families, vocabulary
from pipelines.models.pretraining import CHANNELS, CONTEXT, FUTURE, Sampler, loss, window
from pipelines.models.series import Pretraining
from pipelines.models.tokens import Config


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_city.ready(tmp_path_factory)


def test_a_backbone_knows_its_kinds_and_sensors_and_is_finite(ready: Path) -> None:
    config = files.read_json(ready / "models/backbones/series/config.json")
    assert config["size"] == "tiny"
    assert config["kinds"] == ["a", "w"], "labels are nothing to learn from"
    assert config["sensors"] == ["m/w", "s1/a", "s2/a", "s3/a", "s4/a"]
    weights = load_file(ready / "models/backbones/series/weights.safetensors")
    assert all(np.isfinite(w).all() for w in weights.values())
    report = files.read_json(ready / "metrics/pretrain/series.json")
    assert report["parameters"] == sum(w.size for w in weights.values())
    assert report["validation"]["loss"] <= report["validation"]["loss_untrained"]
    assert report["sources"] == 1


def test_the_same_corpus_gives_the_same_bytes_elsewhere(ready: Path, tmp_path: Path) -> None:
    shutil.copytree(ready / "data/corpus", tmp_path / "data/corpus")
    toy_city.write_params(tmp_path)
    pretrain.run("series", root=tmp_path)
    assert tree(tmp_path / "models/backbones") == tree(ready / "models/backbones")
    assert tree(tmp_path / "plots/pretrain") == tree(ready / "plots/pretrain")


def test_a_few_more_steps_improve_on_none(ready: Path, tmp_path: Path) -> None:
    shutil.copytree(ready / "data/corpus", tmp_path / "data/corpus")
    toy_city.write_params(tmp_path)
    text = (tmp_path / "params.yaml").read_text()
    assert "steps: 4" in text
    (tmp_path / "params.yaml").write_text(text.replace("steps: 4", "steps: 40\n      learning_rate: 0.003", 1))
    pretrain.run("series", root=tmp_path)
    report = files.read_json(tmp_path / "metrics/pretrain/series.json")
    assert report["validation"]["loss"] < report["validation"]["loss_untrained"]


def test_without_a_corpus_it_says_which_command_is_missing(tmp_path: Path) -> None:
    toy_city.write_params(tmp_path)
    with pytest.raises(UserError, match=r"corpus/series.*cityloop corpus series") as error:
        pretrain.run("series", root=tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "models").exists()


HOURS = 24 * 31


def feed(values: np.ndarray, validation: int = 24 * 21) -> dict[str, Any]:
    """An hourly source of `values` [T, N] as `given` takes it."""
    return {"values": values.astype(np.float32), "validation": validation}


def given(root: Path, feeds: dict[str, dict[str, Any]], **pretrain_: Any) -> Path:
    """A city whose corpus holds `feeds`, without the rooms before."""
    trainer = {"steps": 2, "batch": 2, "accelerator": "cpu", **pretrain_}
    city(root, {name: source() for name in feeds}, backbones={"series": {"pretrain": trainer}})
    for name, made in feeds.items():
        values, cut = made["values"], made["validation"]
        n = values.shape[1]
        blank: dict[str, list[Any]] = {"unit": ["u"] * n, "aggregate": ["mean"] * n, "label": [False] * n}
        blank |= dict.fromkeys(("latitude", "longitude", "district"), [None] * n)
        table = pa.table({"sensor": [f"{name}{i:04d}" for i in range(n)], "kind": ["a"] * n, **blank})
        months = grid.months(START, dt.timedelta(hours=1), len(values))
        grid.write(
            root / "data/corpus/series" / name,
            start=START,
            step=dt.timedelta(hours=1),
            months=[(month, values[lo:hi]) for month, lo, hi in months],
            channels=table,
            splits={"train": (0, cut), "validation": (cut, len(values)), "test": (len(values), len(values))},
        )
    return root


def waves(n: int, hours: int = HOURS, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 50 + 10 * np.sin(np.arange(hours) * 2 * np.pi / 24)[:, None] + rng.normal(0, 1, (hours, n))


def report(root: Path) -> Any:
    pretrain.run("series", root=root)
    weights = load_file(root / "models/backbones/series/weights.safetensors")
    assert all(np.isfinite(w).all() for w in weights.values())
    return files.read_json(root / "metrics/pretrain/series.json")


def sampler(root: Path) -> Sampler:
    settings = params.load(root)
    domains, _ = pretrain._domains(settings, "series", root / "data/corpus/series")
    config = Config("tiny", **vocabulary.collect(list(domains.values())))
    return Sampler(domains, config, settings.backbone("series").pretrain)


def test_odd_sources_are_learnt_from_like_any_other(tmp_path: Path) -> None:
    gaps = waves(3)
    gaps[100:260] = np.nan  # whole windows without a reading
    still = np.full((HOURS, 2), 7.0)
    found = report(given(tmp_path, {"one": feed(waves(1)), "gaps": feed(gaps), "still": feed(still)}, steps=6))
    assert found["skipped"] == {}
    for name, told in found["validation"]["by_source"].items():
        assert np.isfinite([told["loss"], told["loss_profile"]]).all(), name
    assert found["validation"]["by_source"]["still"]["loss_profile"] < 1e-6


def test_a_window_without_any_reading_weighs_nothing(tmp_path: Path) -> None:
    values = waves(2)
    values[100:260] = np.nan
    made = sampler(given(tmp_path, {"x": feed(values)}))
    batch = made._batch("x", np.array([110, 120]), np.random.default_rng(0))
    assert all(np.isfinite(v).all() for v in batch.values() if isinstance(v, torch.Tensor))
    total, weight = loss(Pretraining(families.build(made.config)), batch)
    assert (float(total.detach()), float(weight)) == (0, 0)


def test_thousands_of_sensors_take_turns(tmp_path: Path) -> None:
    root = given(tmp_path, {"many": feed(waves(5000))})
    made = sampler(root)
    draws = [made.draw(step, 0, 1) for step in range(3)]
    assert all(b["values"].shape[-1] == b["near"].shape[0] == CHANNELS for b in draws)
    assert report(root)["validation"]["by_source"]["many"]["loss"] > 0


def test_a_source_too_short_is_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    feeds = {"long": feed(waves(2)), "brief": feed(waves(2, 72), 62), "young": feed(waves(2, HOURS), 20)}
    found = report(given(tmp_path, feeds))
    assert found["sources"] == 1
    assert found["skipped"] == {
        "brief": "its validation period has 10 h, a pretraining window asks for 24 h",
        "young": "its train period has 20 h, a pretraining window asks for 60 h",
    }
    assert set(found["validation"]["by_source"]) == {"long"}


def test_with_no_source_long_enough_it_says_why(tmp_path: Path) -> None:
    root = given(tmp_path, {"brief": feed(waves(2, 72), 62)})
    with pytest.raises(UserError, match=r"no source is long enough; of brief its validation period has 10 h") as error:
        pretrain.run("series", root=root)
    assert "\n" not in str(error.value)
    assert not (root / "models").exists()


def test_nothing_shown_tells_what_is_hidden(tmp_path: Path) -> None:
    values = waves(3)
    values[np.random.default_rng(1).random(values.shape) < 0.3] = np.nan
    domain = sampler(given(tmp_path / "a", {"x": feed(values)})).domains["x"]
    row, mask = 24 * 22, np.zeros((1, CONTEXT + FUTURE, 3), np.float32)  # after training: the profile stays
    mask[:, [2, 5, 6, 15]] = 1
    hidden = np.repeat(mask[0], 6, axis=0) > 0
    values[row : row + 96][hidden] += 30
    changed = sampler(given(tmp_path / "b", {"x": feed(values)})).domains["x"]
    before, after = (window(d, np.array([row]), np.arange(3), mask) for d in (domain, changed))
    assert not np.array_equal(before["values"][0][hidden], after["values"][0][hidden])
    assert np.array_equal(before["values"][0][~hidden], after["values"][0][~hidden])
    assert all(np.array_equal(v, after[k]) for k, v in before.items() if k != "values")


def test_a_steps_batch_is_the_same_in_parts_and_validation_never_moves(tmp_path: Path) -> None:
    made = sampler(given(tmp_path, {"x": feed(waves(60)), "y": feed(waves(2))}, batch=4))
    for step in range(4):
        whole, parts = made.draw(step, 0, 1), [made.draw(step, i, 2) for i in range(2)]
        for key in ("values", "mask", "profile", "calendar"):
            assert torch.equal(whole[key][0::2], parts[0][key])
            assert torch.equal(whole[key][1::2], parts[1][key])
        assert torch.equal(whole["sensor"], parts[1]["sensor"])
    first, again = made.held(), made.held()
    assert all(torch.equal(a["values"], b["values"]) for n in first for a, b in zip(first[n], again[n], strict=True))


@pytest.mark.parametrize(("temperature", "share"), [(0, 0.5), (0.5, 2 / 3), (1, 0.8)])
def test_temperature_is_how_much_size_counts(tmp_path: Path, temperature: float, share: float) -> None:
    made = sampler(given(tmp_path, {"big": feed(waves(8)), "small": feed(waves(2))}, temperature=temperature))
    assert made.shares[0] == pytest.approx(share)
    drawn = [made.draw(step, 0, 1)["name"].split(",")[0] for step in range(150)]
    assert abs(drawn.count("big") / 150 - share) < 0.12


def test_resident_memory_is_let_go(tmp_path: Path) -> None:
    """The chunks' mapped pages do not stay: reading a long history leaves less than it holds."""
    root = given(tmp_path, {"x": feed(waves(4000, 24 * 120), 24 * 100)})
    series = grid.Series.open(root / "data/corpus/series/x")
    size = series.length * 4000 * 4

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    series.read(0, 10)
    before = resident()
    for lo in range(0, series.length, 100):
        series.gather(np.arange(lo, min(lo + 100, series.length)), np.arange(2000))
    assert size > 45e6
    assert resident() - before < size / 1.2
