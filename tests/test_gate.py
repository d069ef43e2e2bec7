"""The room: the candidate as the registry holds it, the champion as the store serves it, the verdict for all to see."""

import shutil
from pathlib import Path
from typing import Any

import judged
import pytest

from pipelines import card, gate, register
from pipelines.core import files
from pipelines.core.errors import Refused, UserError
from pipelines.core.paths import Paths
from pipelines.core.tracking import DESCRIPTION_LIMIT, connect
from pipelines.release import bundle, page
from pipelines.release.store import Pointer, Store

TASK = judged.TASK


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """A city with the good bundle registered."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "CITYLOOP_STATE", "CITYLOOP_STORE"):
            patch.delenv(name, raising=False)
        paths = judged.city(tmp_path_factory.mktemp("judged") / "city")
        card.run(TASK, root=paths.root)
        register.run(TASK, root=paths.root)
    return paths


@pytest.fixture
def city(made: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """A copy of that city with its registry; artifacts, which are named by absolute paths, are those of the first."""
    for name in ("MLFLOW_TRACKING_URI", "CITYLOOP_STATE", "CITYLOOP_STORE"):
        monkeypatch.delenv(name, raising=False)
    shutil.copytree(made.root, tmp_path / "city", ignore=shutil.ignore_patterns("mlartifacts"))
    return Paths(tmp_path / "city")


def version(paths: Paths, number: str = "1") -> Any:
    with connect(paths) as tracking:
        return tracking.client.get_model_version(TASK, number)


def tag(paths: Paths, key: str, value: str, number: str = "1") -> None:
    with connect(paths) as tracking:
        tracking.client.set_model_version_tag(TASK, number, key, value)


def champion(paths: Paths, factor: float, number: str = "9") -> str:
    """Let a bundle serve, as version `number`."""
    folder = paths.root / f"champion_{factor}"
    bundle.write(folder, judged.contents(factor))
    store = Store.of(paths)
    digest = store.put(TASK, folder)
    store.point(Pointer(TASK, 1, digest, versions={digest: number}))
    return digest


def test_a_verdict_stands_where_a_reviewer_looks(city: Paths, caplog: pytest.LogCaptureFixture) -> None:
    gate.run(TASK, root=city.root)
    found = version(city)
    assert {k: v for k, v in found.tags.items() if k.startswith("verdict")} == {
        "verdict": "passed", "verdict.why": "all 10 conditions met", "verdict.champion": "none",
    }  # fmt: skip
    text = found.description
    assert text.startswith("air_quality answers: ")
    assert text.index("## Verdict") < text.index("## Results on the frozen test")
    assert "**Passed** on the frozen test 2025-03-17 to 2025-04-07; there is no champion yet." in text
    assert "| better than last value | 21.5 | > 0 %, whole interval | ok |" in text
    assert "## Lineage" in text
    assert f"approved:{bundle.digest(city.task(TASK))}" in text
    assert len(text) <= DESCRIPTION_LIMIT
    kept = files.read_json(city.state / "gates" / f"{TASK}.json")
    assert kept["passed"]
    with connect(city) as tracking:
        path = Path(tracking.client.download_artifacts(found.run_id, "gate/verdict.json"))
    assert files.read_json(path) == kept


def test_each_condition_is_said_in_a_line(city: Paths, capfd: pytest.CaptureFixture[str]) -> None:
    from pipelines.core import log

    log.setup()
    judged.gate(city, **judged.GATE, latency_ms=0.0001)
    with pytest.raises(Refused, match="ms on one thread") as error:
        gate.run(TASK, root=city.root)
    assert error.value.exit_code == 4
    lines = capfd.readouterr().err.splitlines()
    assert len([line for line in lines if line.startswith("ok      ")]) == 9
    (failed,) = [line for line in lines if line.startswith("FAILED  ")]
    assert failed.startswith("FAILED  latency: one window takes")
    assert lines[-1].startswith("gate air_quality: verdict FAILED, version 1, champion none")
    found = version(city)
    assert found.tags["verdict"] == "failed"
    assert "ms on one thread" in found.tags["verdict.why"]
    assert "**Failed**" in found.description
    assert "| **FAILED** |" in found.description


def test_doing_it_again_changes_nothing(city: Paths) -> None:
    gate.run(TASK, root=city.root)
    before = version(city)
    gate.run(None, everything=True, root=city.root)
    after = version(city)
    assert after.tags == before.tags
    assert after.last_updated_timestamp == before.last_updated_timestamp
    register.run(TASK, root=city.root)
    assert version(city).last_updated_timestamp == before.last_updated_timestamp, "register keeps the verdict"


def test_a_long_card_leaves_room_whoever_comes_last(city: Paths) -> None:
    path = city.card(TASK) / "card.md"
    more = "\n".join(f"a line of a long card, number {i}" for i in range(300))
    files.write_bytes(path, page.put(path.read_text(), "Size and making", more).encode())
    register.run(TASK, root=city.root)
    assert page.NOTICE in version(city).description
    gate.run(TASK, root=city.root)
    text = version(city).description
    register.run(TASK, root=city.root)
    assert version(city).description == text
    assert len(text) <= DESCRIPTION_LIMIT
    assert text.count(page.NOTICE) == 1
    assert page.get(text, "Verdict")
    assert "approved:" in (page.get(text, "Review") or "")
    assert "lineage" in (page.get(text, "Lineage") or "")


def test_what_serves_is_not_compared_with_itself(city: Paths) -> None:
    """Whoever watches may have promoted it between the yes and the next run of the gate."""
    gate.run(TASK, root=city.root)
    digest = bundle.digest(city.task(TASK))
    tag(city, "review.ada", f"approved:{digest}")
    before = version(city)
    assert champion(city, 1.0, "1") == digest
    said: list[dict[str, Any]] = []
    gate.run(TASK, root=city.root, tell=said.append)
    assert version(city).tags == before.tags
    assert [(s["verdict"], s["version"], s["champion"]) for s in said] == [("passed", "1", None)]
    tag(city, "verdict", "failed")
    with pytest.raises(Refused, match="all 10 conditions met"):
        gate.run(TASK, root=city.root)


def test_reviews_of_another_comparison_are_void(city: Paths, caplog: pytest.LogCaptureFixture) -> None:
    digest = bundle.digest(city.task(TASK))
    gate.run(TASK, root=city.root)
    tag(city, "review.ada", f"approved:{digest}")
    tag(city, "proof.ada", "token")
    gate.run(TASK, root=city.root)
    assert version(city).tags["review.ada"] == f"approved:{digest}", "the same comparison still"
    serving = champion(city, 1.001)
    gate.run(TASK, root=city.root)
    found = version(city)
    assert found.tags["verdict.champion"] == serving
    assert found.tags["void_review.ada"] == f"approved:{digest}"
    assert not {"review.ada", "proof.ada"} & found.tags.keys()
    assert f"against champion version 9 (`{serving[:12]}`)" in found.description
    assert "| champion |" in found.description
    tag(city, "review.ada", f"approved:{digest}")
    gate.run(TASK, root=city.root)
    assert version(city).tags["review.ada"] == f"approved:{digest}"


def test_a_better_champion_means_a_failed_verdict(city: Paths) -> None:
    gate.run(TASK, root=city.root)
    bundle.write(city.task(TASK), judged.contents(1.02))
    card.run(TASK, root=city.root)
    register.run(TASK, root=city.root)
    serving = champion(city, 1.0)
    with pytest.raises(Refused, match=rf"^air_quality: MAE 1\.\d+, champion {serving[:12]} 1\.\d+: .* worse"):
        gate.run(TASK, root=city.root)
    assert (version(city, "1").tags["verdict"], version(city, "2").tags["verdict"]) == ("passed", "failed")


def test_bytes_that_are_not_what_was_registered_are_refused(city: Paths, made: Paths) -> None:
    tag(city, "digest", "0" * 64)
    with pytest.raises(UserError, match=r"its model is bundle .* its tag says 000000000000"):
        gate.run(TASK, root=city.root)
    assert version(city).tags["verdict"] == "pending"
    digest = bundle.digest(city.task(TASK))
    kept = next(p.parent for p in made.state.rglob(bundle.MANIFEST) if bundle.digest(p.parent) == digest)
    weights = kept / "weights.safetensors"
    data = weights.read_bytes()
    try:
        weights.write_bytes(b"other")
        with pytest.raises(UserError, match=r"weights\.safetensors: not the bytes"):
            gate.run(TASK, root=city.root)
    finally:
        weights.write_bytes(data)


def test_what_cannot_be_judged_is_said(city: Paths) -> None:
    with pytest.raises(UserError, match="another: no version is its candidate; run `cityloop register another`"):
        gate.run("another", root=city.root)
    with pytest.raises(UserError, match="name one task, or give --all"):
        gate.run(None, root=city.root)
    with pytest.raises(UserError, match="did you mean 'air_quality'"):
        gate.run("air_qualty", root=city.root)
    shutil.rmtree(city.joined(TASK))
    with pytest.raises(UserError, match="no joined data to judge by"):
        gate.run(None, everything=True, root=city.root)
    with connect(city) as tracking:
        tracking.client.delete_registered_model_alias(TASK, "candidate")
    with pytest.raises(UserError, match="no version is its candidate"):
        gate.run(None, everything=True, root=city.root)


def test_a_gate_that_is_off_is_loud(city: Paths, capfd: pytest.CaptureFixture[str]) -> None:
    from pipelines.core import log

    log.setup()
    judged.gate(city, enabled=False)
    gate.run(TASK, root=city.root)
    assert "the gate of air_quality is switched off" in capfd.readouterr().err
    found = version(city)
    assert found.tags["verdict"] == "passed"
    assert "switched off" in found.tags["verdict.why"]
    assert "**Not judged**" in found.description
