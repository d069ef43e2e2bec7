"""Training on one process and on two, stopped and killed and gone on with: always the same curve and weights.

Tolerance where the number of processes or parts differs: 1e-5 of each loss, 1e-5 on each weight (sums run in another
order); none where it does not.
"""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_training
from safetensors.torch import load_file

from pipelines.core import files
from pipelines.core.errors import UserError

TESTS = Path(__file__).resolve().parents[1]
Launch = Any


def _as_rank(rank: int, world: int, port: int, root: Path, words: dict[str, Any]) -> None:
    """What torchrun gives a process, then the toy; what it says goes to a file."""
    told = os.open(root / f"said.{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(told, 2)
    if world > 1:
        given = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_PORT": port}
        os.environ |= {k: str(v) for k, v in given.items()}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "toy", "GROUP_RANK": "0"}
    torch.set_num_threads(1)
    toy_training.main(root, words)


def _train(context: Any, root: Path, world: int = 1, **words: Any) -> list[int]:
    """Exit codes of the processes that train the toy in `root`."""
    root.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [context.Process(target=_as_rank, args=(r, world, port, root, words)) for r in range(world)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
        process.kill()
    return [process.exitcode for process in ranks]


@pytest.fixture(scope="module")
def train() -> Iterator[Launch]:
    """Processes forked from one that has torch loaded, and has not used it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{TESTS}{os.pathsep}{TESTS.parent}")
        patch.setenv("OMP_NUM_THREADS", "1")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["toy_training", "lightning_fabric"])
        yield partial(_train, context)


@pytest.fixture(scope="module")
def alone(train: Launch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process, undisturbed: what all others are held against."""
    root: Path = tmp_path_factory.mktemp("alone")
    assert train(root) == [0]
    return root


def said(root: Path, rank: int = 0) -> str:
    return (root / f"said.{rank}").read_text()


def losses(root: Path) -> list[list[float]]:
    return [list(row.values())[1:] for row in files.read_json(root / "result.json")["curve"][1:]]


def assert_same(one: Path, other: Path, within: float) -> None:
    assert [pytest.approx(row, rel=within) for row in losses(one)] == losses(other)
    mine, theirs = (load_file(root / "weights.safetensors") for root in (one, other))
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        assert torch.allclose(tensor, theirs[name], rtol=0, atol=within), name


def states(root: Path) -> list[Path]:
    return sorted((root / ".cityloop/checkpoints").rglob("*.safetensors"))


def test_it_learns_and_leaves_no_checkpoint(alone: Path) -> None:
    curve = files.read_json(alone / "result.json")["curve"]
    assert curve[-1]["validation_loss"] < 0.3 * curve[0]["validation_loss"]
    assert [row["step"] for row in curve] == list(range(0, 21, 2))
    assert states(alone) == []
    told = files.read_json(alone / ".cityloop/logs/pretrain/toy.json")
    assert 0 <= told["data_wait"] <= 1
    assert told["memory_bytes"] > 1e6


@pytest.mark.parametrize(
    ("world", "words"),
    [(1, {"accumulate": 3}), (2, {}), (2, {"strategy": "fsdp"}), (2, {"strategy": "fsdp", "accumulate": 2})],
)  # fmt: skip
def test_the_same_curve_however_a_batch_is_shared(
    train: Launch, alone: Path, tmp_path: Path, world: int, words: dict[str, Any]
) -> None:
    assert train(tmp_path, world, **words) == [0] * world
    assert_same(alone, tmp_path, 1e-5)
    if world > 1:
        assert files.read_json(tmp_path / "result.json")["pid"], "the first process wrote"
        assert said(tmp_path, 1) == ""
        assert sorted(p.name for p in tmp_path.iterdir()) == [
            ".cityloop", "result.json", "said.0", "said.1", "weights.safetensors"
        ]  # fmt: skip


def test_the_mean_is_over_points_and_not_over_batches(alone: Path) -> None:
    """Validation by hand: every held point counts once, however its batch is filled."""
    import numpy as np

    model = toy_training.Toy().eval()
    total = weight = 0.0
    for i in range(3):
        data = toy_training.batch(np.random.default_rng([9, i]), 8)
        with torch.no_grad():
            error = (model(data["cadence"], data["x"]) - data["y"]) ** 2 * data["seen"]
        total, weight = total + float(error.sum()), weight + float(data["seen"].sum())
    untrained = files.read_json(alone / "result.json")["curve"][0]["validation_loss"]
    assert untrained == pytest.approx(total / weight, rel=1e-6)


@pytest.mark.parametrize("step", [7, 20])
def test_stopped_and_run_again_ends_in_the_same_bits(train: Launch, alone: Path, tmp_path: Path, step: int) -> None:
    assert train(tmp_path, stop_at=step) == [143]
    assert said(tmp_path).splitlines()[-1] == (
        f"error: pretrain toy: stopped after step {step} as asked; run it again to go on"
    )
    assert not (tmp_path / "result.json").exists()
    assert train(tmp_path) == [0]
    assert f"goes on after step {step} of 20" in said(tmp_path)
    assert losses(tmp_path) == losses(alone)
    assert (tmp_path / "weights.safetensors").read_bytes() == (alone / "weights.safetensors").read_bytes()


def test_killed_it_loses_what_came_since_the_last_checkpoint(train: Launch, alone: Path, tmp_path: Path) -> None:
    assert train(tmp_path, kill_at=9) == [-9]
    assert train(tmp_path) == [0]
    assert "goes on after step 8 of 20" in said(tmp_path)
    assert (tmp_path / "weights.safetensors").read_bytes() == (alone / "weights.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("first", "second"),
    [((2, "ddp"), (2, "ddp")), ((2, "fsdp"), (1, "auto")), ((2, "ddp"), (1, "auto")), ((1, "auto"), (2, "fsdp"))],
)
def test_a_killed_worker_and_another_number_of_processes(
    train: Launch, alone: Path, tmp_path: Path, first: tuple[int, str], second: tuple[int, str]
) -> None:
    world, strategy = first
    codes = train(tmp_path, world, strategy=strategy, kill_at=9)
    assert codes[-1] == -9
    if world > 1:
        assert codes[0] == 2
        assert said(tmp_path).count("\n") == 1, said(tmp_path)
        assert "another process of this training ended; run it again" in said(tmp_path)
    world, strategy = second
    assert train(tmp_path, world, strategy=strategy) == [0] * world
    assert "goes on after step 8 of 20" in said(tmp_path)
    assert_same(alone, tmp_path, 1e-5)


def test_two_processes_stop_together(train: Launch, alone: Path, tmp_path: Path) -> None:
    assert train(tmp_path, 2, strategy="fsdp", stop_at=4) == [143, 0], "asked was the second"
    assert train(tmp_path, 2, strategy="ddp") == [0, 0]
    assert "goes on after step 5 of 20" in said(tmp_path)
    assert_same(alone, tmp_path, 1e-5)


def test_a_damaged_checkpoint_gives_way_to_the_one_before_and_a_foreign_one_to_none(
    train: Launch, alone: Path, tmp_path: Path
) -> None:
    assert train(tmp_path, kill_at=9) == [-9]
    former, last = states(tmp_path)
    content = bytearray(last.read_bytes())
    content[-5] ^= 1
    last.write_bytes(content)
    (last.parent / "000000019.safetensors").write_bytes(b"not much")
    assert train(tmp_path, kill_at=8) == [-9]
    assert f"{last}: not a checkpoint of this training, ignored: its bytes are damaged" in said(tmp_path)
    assert "000000019.safetensors: not a checkpoint of this training, ignored" in said(tmp_path)
    assert "goes on after step 6 of 20" in said(tmp_path)
    assert train(tmp_path, learning_rate=0.02, kill_at=1) == [-9]
    assert "goes on" not in said(tmp_path), "another learning rate is another training"
    assert former.parent.exists()


@pytest.mark.parametrize("world", [1, 2])
def test_a_loss_that_is_no_number_names_its_batch_and_keeps_the_checkpoint(
    train: Launch, tmp_path: Path, world: int
) -> None:
    codes = train(tmp_path, world, nan_at=11)
    assert codes[0] == 2
    (line,) = said(tmp_path).splitlines()
    assert line.startswith("error: pretrain toy: loss is nan at step 11, batch toy rows of step 11; lower")
    assert [p.name for p in states(tmp_path)] == ["000000008.safetensors", "000000010.safetensors"]


def test_a_batch_too_small_to_share_and_what_this_machine_lacks_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"batch 8 cannot be shared by 9 parts"):
        toy_training.run(tmp_path, accumulate=9)
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="accelerator cuda") as error:
            toy_training.run(tmp_path, accelerator="cuda")
        assert "\n" not in str(error.value)


def test_too_little_memory_names_the_dial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self: Any, kind: str, x: torch.Tensor) -> torch.Tensor:
        return torch.empty(1 << 60)

    monkeypatch.setattr(toy_training.Toy, "forward", forward)
    with pytest.raises(UserError, match=r"out of memory on cpu; raise `accumulate` \(now 1\), lower `batch`") as error:
        toy_training.run(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("words", [{"clip": 0}, {"precision": "bf16-mixed"}, {"precision": "bf16-true"}])
def test_other_ways_to_train_learn_too(tmp_path: Path, words: dict[str, Any]) -> None:
    trained, model = toy_training.run(tmp_path, **words)
    assert trained.best < 0.5 * trained.curve[0]["validation_loss"]
    assert all(not v.is_cuda and v.isfinite().all() for v in model.state_dict().values())


def test_lightning_starts_the_second_process_itself(alone: Path, tmp_path: Path) -> None:
    """As `python -m pipelines` would be run again; torchrun sets what `_as_rank` does."""
    here = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    here |= {"PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}", "OMP_NUM_THREADS": "1"}
    words = ["-m", "toy_training", str(tmp_path), "strategy=ddp", "devices=2"]
    done = subprocess.run([sys.executable, *words], env=here, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert json.loads((tmp_path / ".cityloop/logs/pretrain/toy.json").read_text())["processes"] == 2
    assert_same(alone, tmp_path, 1e-5)
