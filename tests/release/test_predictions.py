"""The prediction log and batch forecasts: what is read back, and what happens when the store will not take it."""

import datetime as dt
import gc
import os
import signal
import subprocess
import sys
import textwrap
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import carded
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.core.errors import UserError
from pipelines.release import bundle, objects, predictions
from pipelines.release.predictions import Answered, Log
from pipelines.release.predictor import Predictor

Array = np.ndarray[Any, Any]
HEAD = ["request_id", "task", "digest", "role", "issued", "sensor", "kind", "time", "step"]
FIRST = np.datetime64("2025-04-07T00:00", "us")
ISSUED = FIRST + np.timedelta64(90, "s")
ROWS = carded.SPEC.horizon * len(carded.SENSORS)


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    folder = tmp_path_factory.mktemp("bundle") / "b"
    bundle.write(folder, carded.contents())
    return Predictor.load(folder, threads=1)


def window(predictor: Predictor, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    return rng.uniform(5, 30, (1, predictor.spec.context, len(predictor.channels))).astype(np.float32)


def answered(predictor: Predictor, seed: int = 0, **other: Any) -> Answered:
    start = FIRST - predictor.spec.context * np.timedelta64(predictor.spec.step_s, "s")
    answer = predictor.predict(window(predictor, seed), np.array([start]))[0]
    given = Answered(carded.TASK, predictor, "stable", f"request-{seed}", ISSUED, FIRST, answer)
    return given._replace(**other)


def logged(root: Path, task: str = carded.TASK) -> pa.Table:
    """Every row that lies in the store, after every file was read whole."""
    found = [pq.ParquetFile(root / key).read() for key in objects.of(str(root)).find(f"predictions/{task}")]
    return pa.concat_tables(found) if found else pa.table({})


def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_row_is_a_step_of_a_channel_as_predict_rows_says_it(predictor: Predictor, tmp_path: Path) -> None:
    log = Log(objects.of(str(tmp_path)), "server-1")
    log.add(answered(predictor))
    assert log.close()
    assert log.counts == {"written": ROWS, "dropped": 0, "failed": 0, "files": 1, "waiting": 0}
    (key,) = objects.of(str(tmp_path)).find("predictions")
    assert key.startswith(f"predictions/{carded.TASK}/date=2025-04-07/server-1-")
    found = logged(tmp_path)
    assert found.column_names == [*HEAD, *predictor.names]
    said = predictor.predict_rows(rows(predictor))
    for name in ("sensor", "kind"):
        assert found[name].to_pylist() == said[name].tolist()
    assert found["time"].type == pa.timestamp("us", "UTC")
    assert np.array_equal(found["time"].to_numpy(), said["time"].astype("datetime64[us]"))
    for name in predictor.names:
        assert np.array_equal(found[name].to_numpy(), said[name])
    assert found["step"].to_pylist() == np.repeat(np.arange(24) + 1, 3).tolist()
    assert set(found["issued"].to_pylist()) == {dt.datetime(2025, 4, 7, 0, 1, 30, tzinfo=dt.UTC)}
    once = [found[name].unique().to_pylist() for name in HEAD[:4]]
    assert once == [["request-0"], [carded.TASK], [predictor.digest], ["stable"]]


def rows(predictor: Predictor) -> dict[str, Array]:
    """`window` as long rows."""
    values, n = window(predictor)[0], len(predictor.channels)
    back = np.arange(len(values), 0, -1) * np.timedelta64(predictor.spec.step_s, "s")
    return {
        "time": np.repeat(FIRST - back, n),
        "sensor": np.tile(np.array([c["sensor"] for c in predictor.channels], object), len(values)),
        "kind": np.tile(np.array([c["kind"] for c in predictor.channels], object), len(values)),
        "value": values.reshape(-1).astype(float),
    }


def test_a_missing_number_is_null(predictor: Predictor) -> None:
    one = answered(predictor)
    one.answer[3, 1, 2] = np.nan
    found = predictions.table([one])["q0.9"]
    assert found.null_count == 1
    assert found[3 * 3 + 1].as_py() is None


def test_answers_of_many_shapes_days_and_models_keep_apart(predictor: Predictor, tmp_path: Path) -> None:
    one = answered(predictor)
    fewer = one._replace(answer=one.answer[:, :1].copy(), request_id="fewer", role="shadow")
    earlier = one._replace(issued=np.datetime64("1970-01-01T00:00:00", "us"), request_id="before the clock was set")
    later = one._replace(issued=np.datetime64("2100-01-01T00:00:00", "us"), request_id="clock jumped", task="another")
    log = Log(objects.of(str(tmp_path)), "w")
    for each in (one, fewer, earlier, later, answered(predictor, 1)):
        log.add(each)
    log.close()
    found = logged(tmp_path)
    of = {r: found.filter(pa.compute.equal(found["request_id"], r)) for r in ("request-0", "request-1", "fewer")}
    assert len(of["fewer"]) == carded.SPEC.horizon
    assert of["fewer"]["sensor"].unique().to_pylist() == ["mast_1"]
    assert of["fewer"]["role"].unique().to_pylist() == ["shadow"]
    assert np.array_equal(of["fewer"]["q0.5"].to_numpy(), one.answer[:, 0, 1])
    for seed in (0, 1):
        mine = of[f"request-{seed}"]
        assert np.array_equal(mine["mean"].to_numpy(), answered(predictor, seed).answer[..., 3].reshape(-1))
    keys = objects.of(str(tmp_path)).find("predictions")
    assert [key.split("/")[1:3] for key in keys] == [
        [carded.TASK, "date=1970-01-01"],
        [carded.TASK, "date=2025-04-07"],
        ["another", "date=2100-01-01"],
    ]


def test_long_batches_come_in_row_groups(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "ROW_GROUP", 2 * ROWS)
    file = pq.ParquetFile(pa.BufferReader(predictions.encode([answered(predictor, seed) for seed in range(5)])))
    assert [file.metadata.row_group(i).num_rows for i in range(3)] == [2 * ROWS, 2 * ROWS, ROWS]
    assert file.read()["request_id"].unique().to_pylist() == [f"request-{seed}" for seed in range(5)]


def test_rows_are_written_after_a_while_or_when_there_are_many(predictor: Predictor, tmp_path: Path) -> None:
    soon = Log(objects.of(str(tmp_path / "soon")), "w", flush_s=0.1)
    many = Log(objects.of(str(tmp_path / "many")), "w", flush_s=600, flush_rows=3 * ROWS)
    for seed in range(2):
        many.add(answered(predictor, seed))
    soon.add(answered(predictor))
    until(lambda: soon.counts["written"] == ROWS)
    assert many.counts["waiting"] == 2 * ROWS
    many.add(answered(predictor, 2))
    until(lambda: many.counts["written"] == 3 * ROWS)
    assert many.counts["files"] == 1
    assert soon.close()
    assert many.close()


def test_what_is_sampled_is_decided_by_the_request_once(predictor: Predictor, tmp_path: Path) -> None:
    one = answered(predictor, answer=np.zeros((1, 1, 4), np.float32))
    for name in ("one", "two"):
        log = Log(objects.of(str(tmp_path / name)), "w", share=0.25)
        for i in range(2000):
            log.add(one._replace(request_id=f"r{i}"))
            log.add(one._replace(request_id=f"r{i}", role="shadow"))
        log.close()
    kept = logged(tmp_path / "one")
    roles = {role: kept.filter(pa.compute.equal(kept["role"], role)) for role in ("stable", "shadow")}
    stable, shadow = (set(found["request_id"].to_pylist()) for found in roles.values())
    assert stable == shadow == set(logged(tmp_path / "two")["request_id"].to_pylist())
    assert 400 < len(stable) < 600


def test_a_store_that_comes_back_gets_all_that_found_room(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictions, "FIRST_S", 0.05)
    gone = tmp_path / "store"
    gone.write_text("where the folder should be")
    log = Log(objects.of(str(gone)), "w", flush_s=0.05, max_rows=10 * ROWS)
    took = []
    for seed in range(15):
        one = answered(predictor, seed)
        began = time.perf_counter()
        log.add(one)
        took.append(time.perf_counter() - began)
    assert max(took) < 0.05
    until(lambda: log.counts["failed"] >= 2)
    assert log.counts | {"failed": 0} == {
        "written": 0, "dropped": 5 * ROWS, "failed": 0, "files": 0, "waiting": 10 * ROWS
    }  # fmt: skip
    gone.unlink()
    until(lambda: log.counts["written"] == 10 * ROWS)
    assert log.counts["waiting"] == 0
    assert len(logged(gone)) == 10 * ROWS
    assert log.close()


def test_a_store_that_stays_away_costs_rows_and_nothing_else(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictions, "FIRST_S", 0.01)
    monkeypatch.setattr(predictions, "TRIES", 3)
    gone = tmp_path / "store"
    gone.write_text("where the folder should be")
    log = Log(objects.of(str(gone)), "w", flush_s=0.05)
    log.add(answered(predictor))
    until(lambda: log.counts["dropped"] == ROWS)
    assert log.counts["failed"] == 3
    gone.unlink()
    log.add(answered(predictor, 1))
    until(lambda: log.counts["written"] == ROWS)
    assert log.close()
    log.add(answered(predictor, 2))  # too late, and said so
    assert log.counts["dropped"] == 2 * ROWS


def test_closing_waits_for_no_store(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("where the folder should be")
    log = Log(objects.of(str(tmp_path / "store")), "w")
    log.add(answered(predictor))
    began = time.monotonic()
    assert log.close()
    assert time.monotonic() - began < 5
    assert log.counts == {"written": 0, "dropped": ROWS, "failed": 1, "files": 0, "waiting": 0}


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("nobody but root can mount a small disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_leaves_no_half_file_and_is_used_once_it_has_room(
    predictor: Predictor, tiny_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictions, "FIRST_S", 0.05)
    ballast = tiny_disk / "ballast"
    with pytest.raises(OSError, match="No space left"):
        ballast.write_bytes(bytes(1 << 20))
    log = Log(objects.of(str(tiny_disk / "store")), "w", flush_s=0.05)
    for seed in range(5):
        log.add(answered(predictor, seed))
    until(lambda: log.counts["failed"] >= 3)
    assert len(logged(tiny_disk / "store")) == 0
    assert not [p for p in (tiny_disk / "store").rglob("*") if p.is_file()]
    ballast.unlink()
    until(lambda: log.counts["written"] == 5 * ROWS)
    assert log.close()
    assert len(logged(tiny_disk / "store")) == 5 * ROWS


WRITER = """
    import sys
    from pathlib import Path

    import numpy as np
    from pipelines.release import objects
    from pipelines.release.predictions import Answered, Log
    from pipelines.release.predictor import Predictor

    predictor = Predictor.load(Path(sys.argv[1]), threads=1)
    answer = np.random.default_rng(0).random((24, 3, 4), np.float32)
    now = np.datetime64("2025-04-07T00:00", "us")
    log = Log(objects.of(sys.argv[2]), "server", flush_s=0.01, flush_rows=500, max_rows=5000)
    number = 0
    while True:
        if log.counts["waiting"] < 4000:
            log.add(Answered("air_quality", predictor, "stable", f"r{number}", now, now, answer))
            number += 1
"""


def test_a_killed_server_leaves_whole_files_and_the_next_one_overwrites_none(tmp_path: Path) -> None:
    bundle.write(tmp_path / "bundle", carded.contents())
    store, rows, files = tmp_path / "store", 0, set[str]()
    for life in range(3):
        words = [sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path / "bundle"), str(store)]
        process = subprocess.Popen(words, cwd=carded.ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})
        try:
            until(lambda: len(objects.of(str(store)).find("predictions")) >= len(files) + 5, 60)  # noqa: B023
            time.sleep(0.003 * life)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        found = logged(store)
        assert len(found) % ROWS == 0
        assert len(found) > rows
        assert files < set(objects.of(str(store)).find("predictions"))
        rows, files = len(found), set(objects.of(str(store)).find("predictions"))


def test_two_writers_of_one_name_do_not_meet(predictor: Predictor, tmp_path: Path) -> None:
    logs = [Log(objects.of(str(tmp_path)), "server", flush_s=0.01) for _ in range(2)]
    for seed in range(40):
        logs[seed % 2].add(answered(predictor, seed))
        time.sleep(0.002)
    assert all(log.close() for log in logs)
    assert sum(log.counts["files"] for log in logs) == len(objects.of(str(tmp_path)).find("predictions"))
    assert set(logged(tmp_path)["request_id"].to_pylist()) == {f"request-{seed}" for seed in range(40)}


def test_an_answer_that_cannot_be_written_stops_nothing(predictor: Predictor, tmp_path: Path) -> None:
    log = Log(objects.of(str(tmp_path)), "w", flush_s=0.05)
    log.add(answered(predictor, answer=np.zeros((24, 3, 1), np.float32)))
    until(lambda: log.counts["dropped"] == ROWS)
    log.add(answered(predictor))
    until(lambda: log.counts["written"] == ROWS)
    assert log.close()


def test_an_id_that_is_no_text_is_kept_as_well_as_can_be(predictor: Predictor, tmp_path: Path) -> None:
    log = Log(objects.of(str(tmp_path)), "w", share=0.999999)
    log.add(answered(predictor, request_id="a\ud800b"))
    assert log.close()
    assert logged(tmp_path)["request_id"].unique().to_pylist() == ["a?b"]


def test_of_a_larger_array_only_the_answer_is_kept(predictor: Predictor, tmp_path: Path) -> None:
    log = Log(objects.of(str(tmp_path)), "w", flush_s=600)
    many = np.stack([answered(predictor).answer] * 32)
    kept = weakref.ref(many)
    log.add(answered(predictor, answer=many[7]))
    del many
    gc.collect()
    assert kept() is None
    assert log.counts["waiting"] == ROWS
    assert log.close()


def test_neither_pyarrow_at_start_nor_pandas_ever_is_loaded(tmp_path: Path) -> None:
    bundle.write(tmp_path / "bundle", carded.contents())
    script = """
        import sys
        from pipelines.release import predictions
        assert "pyarrow" not in sys.modules
        from pathlib import Path
        import numpy as np
        from pipelines.release import objects
        from pipelines.release.predictor import Predictor
        predictor = Predictor.load(Path(sys.argv[1]), threads=1)
        now, answer = np.datetime64("2025-04-07T00:00", "us"), np.zeros((24, 3, 4), np.float32)
        one = predictions.Answered("air_quality", predictor, "batch", "r", now, now, answer)
        store = objects.of(sys.argv[2])
        predictions.publish(store, one)
        assert len(predictions.latest(store, "air_quality", "mast_2")["q0.5"]) == 24
        assert not {"pandas", "torch", "mlflow"} & set(sys.modules)
    """
    words = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "bundle"), str(tmp_path / "store")]
    subprocess.run(words, cwd=carded.ROOT, check=True)


def batch(predictor: Predictor, hours: int = 0, seed: int = 0) -> Answered:
    when = FIRST + np.timedelta64(hours, "h")
    return answered(predictor, seed, role="batch", issued=when, first=when)


def test_the_latest_forecast_is_found_for_one_sensor_or_all(predictor: Predictor, tmp_path: Path) -> None:
    store = objects.of(str(tmp_path))
    assert predictions.latest(store, carded.TASK) is None
    one = batch(predictor)
    key = predictions.publish(store, one)
    assert key == f"predictions/{carded.TASK}/date=2025-04-07/batch-{predictor.digest[:16]}-20250407T000000Z.parquet"
    found = predictions.latest(store, carded.TASK)
    assert found is not None
    assert list(found) == [*HEAD, *predictor.names]
    assert np.array_equal(found["q0.1"], one.answer[..., 0].reshape(-1))
    mine = predictions.latest(store, carded.TASK, "mast_2")
    assert mine is not None
    assert np.array_equal(mine["mean"], one.answer[:, 1, 3])
    assert np.array_equal(mine["time"], FIRST + np.arange(24) * np.timedelta64(1, "h"))
    assert set(mine["sensor"]) == {"mast_2"}
    assert set(mine["digest"]) == {predictor.digest}
    assert predictions.latest(store, carded.TASK, "nobody") is None
    assert predictions.latest(store, "another") is None


def test_a_forecast_made_again_replaces_itself_and_an_older_one_is_never_the_latest(
    predictor: Predictor, tmp_path: Path
) -> None:
    store = objects.of(str(tmp_path))
    keys = [predictions.publish(store, batch(predictor, hours, seed)) for hours, seed in ((6, 0), (6, 1), (0, 2))]
    assert keys[0] == keys[1] != keys[2]
    assert len(store.find("predictions")) == 3
    found = predictions.latest(store, carded.TASK)
    assert found is not None
    assert np.array_equal(found["mean"], answered(predictor, 1).answer[..., 3].reshape(-1))
    predictions.publish(store, batch(predictor, 12, 3))
    assert (predictions.latest(store, carded.TASK) or found)["issued"][0] == FIRST + np.timedelta64(12, "h")


def test_a_forecast_that_was_damaged_is_named(predictor: Predictor, tmp_path: Path) -> None:
    store = objects.of(str(tmp_path))
    key = predictions.publish(store, batch(predictor))
    (tmp_path / key).write_bytes((tmp_path / key).read_bytes()[:-20])
    with pytest.raises(UserError, match=r"batch-.*not a forecast.*cityloop predict air_quality"):
        predictions.latest(store, carded.TASK)
    (tmp_path / key).unlink()
    assert predictions.latest(store, carded.TASK) is None
    (tmp_path / f"predictions/{carded.TASK}/latest.json").write_text("[]")
    assert predictions.latest(store, carded.TASK) is None


def test_old_answers_are_forgotten_and_the_latest_forecast_is_not(predictor: Predictor, tmp_path: Path) -> None:
    store = objects.of(str(tmp_path))
    for days in range(4):
        when = ISSUED + np.timedelta64(days, "D")
        store.put(
            f"predictions/{carded.TASK}/date={str(when)[:10]}/a-0.parquet",
            predictions.encode([answered(predictor, issued=when)]),
        )
    batch = predictions.publish(store, answered(predictor, role="batch"))
    store.put("predictions/other/date=2025-04-07/b-0.parquet", b"of another task")
    store.put("predictions/other/date=2025-04-07/note.txt", b"not ours")
    assert predictions.forget(store, "2025-04-09") == 3
    assert set(store.find("predictions")) == {
        "predictions/other/date=2025-04-07/note.txt",
        *(f"predictions/{carded.TASK}/date=2025-04-{day}/a-0.parquet" for day in ("09", "10")),
        batch,
        f"predictions/{carded.TASK}/latest.json",
    }
    assert predictions.latest(store, carded.TASK) is not None
    assert predictions.forget(store, "2025-04-09") == 0
