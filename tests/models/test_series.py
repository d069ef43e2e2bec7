"""The transformer without training: what it answers, and what it must not see."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from toy_city import batch

from pipelines.core.windows import Spec, known_steps
from pipelines.models import export, objectives, ridge
from pipelines.models.attend import attend
from pipelines.models.ridge import Ridge
from pipelines.models.series import Backbone, Block, Pretraining, TaskModel, last_shown, normalise
from pipelines.models.tokens import SIZES, Channels, Config

SPEC = Spec.of(3600, 24, 5, "Europe/Amsterdam")
WHOLE = Spec.of(3600, 24, 6, "Europe/Amsterdam")
N = 4
CONFIG = Config("tiny", ("a",), ("s/a",), units=("u",))


def model(spec: Spec, outputs: int = 4, reconstruct: bool = False, noisy: bool = True) -> TaskModel:
    """A task model; `noisy`: with a head and an anchor that say something."""
    torch.manual_seed(0)
    made = TaskModel(Backbone(CONFIG), spec, outputs, reconstruct)
    if noisy:
        for layer in (made.head, made.anchor):
            torch.nn.init.normal_(layer.weight, std=0.1)
            torch.nn.init.normal_(layer.bias, std=0.1)
    return made.eval()


def alone(n: int) -> dict[str, Any]:
    """Channels of one unit, without a graph, nothing known ahead."""
    return {
        "unit_id": np.ones(n, np.int64),
        "near": np.zeros((n, 0), np.int64),
        "close": np.zeros((n, 0), np.float32),
        "ahead": np.zeros((n, 0), np.float32),
        "peered": np.ones(n, np.float32),
    }


def ask(made: TaskModel, data: dict[str, Any], n: int = N) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(3)
    who = {
        "place": rng.normal(size=(n, 12)).astype(np.float32),
        "kind": np.ones(n, np.int64),
        "sensor": np.arange(n) % 2,
        **alone(n),
        "reference": np.ones(n, np.float32),
    }
    beside = np.zeros((len(data["values"]), made.beside, n), np.float32)
    given = {"beside": beside, **who, **data}
    with torch.no_grad():
        return tuple(v.numpy() for v in made(*(torch.from_numpy(given[k]) for k in export.INPUTS if k != "reference")))


def anchor_of(known: int, horizon: int) -> Ridge:
    rng = np.random.default_rng(1)
    weight = rng.normal(0, 0.05, (horizon, 2 * known + horizon + SPEC.patch)).astype(np.float32)
    return Ridge(weight, rng.normal(size=horizon).astype(np.float32), np.ones(horizon, np.float32), known)


def test_untrained_it_forecasts_as_the_ridge_whose_weights_it_holds() -> None:
    spec = SPEC
    fitted = anchor_of(24, spec.horizon)
    made = model(spec, noisy=False)
    with torch.no_grad():
        made.anchor.weight.copy_(torch.from_numpy(fitted.weight))
        made.anchor.bias.copy_(torch.from_numpy(fitted.bias))
    rng = np.random.default_rng(2)
    peers = {"beside": rng.normal(size=(3, spec.patch, N)).astype(np.float32), "peered": np.arange(N) % 2}
    data = {**batch(spec, N), **peers}
    anchor, raw, _ = ask(made, data)
    assert not raw.any()
    assert anchor == pytest.approx(fitted.predict(data, N), rel=1e-5)
    aux = {"noise": torch.ones(spec.horizon)}
    answer = objectives.load("forecast").answer(*(torch.from_numpy(v) for v in ask(made, data)), aux)
    assert answer[..., 1].numpy() == pytest.approx(anchor)
    assert answer[..., 3].numpy() == pytest.approx(anchor)


def test_untrained_it_reconstructs_the_profile() -> None:
    data = batch(WHOLE, N)
    anchor, raw, scale = ask(model(WHOLE, reconstruct=True, noisy=False), data)
    assert not raw.any()
    assert anchor == pytest.approx(data["profile"][:, 18:24], rel=1e-5)
    assert np.array_equal(scale, np.broadcast_to(data["std"], (3, 1, N)))


def test_the_two_normalisations_are_one() -> None:
    data = batch(SPEC, N)
    ours = ridge.normalise(data["values"], data["profile"], 18, data["std"])
    theirs = normalise(*(torch.from_numpy(data[k]) for k in ("values", "profile")), 18, torch.from_numpy(data["std"]))
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == (3, 1, N)
        assert b.numpy() == pytest.approx(a, rel=1e-5)


def window(late: np.ndarray | None = None, channels: slice = slice(None), gap: bool = False) -> dict[str, Any]:
    """A window of `WHOLE` whose last patch reads `late` in `channels`; `gap`: channel 1 read nothing before it."""
    from pipelines.core import windows

    rng = np.random.default_rng(0)
    profile = rng.normal(50, 5, (168, N)).astype(np.float32)
    values = rng.normal(50, 8, (2, 24, N)).astype(np.float32)
    if late is not None:
        values[:, 18:, channels] = late
    if gap:
        values[:, :18, 1] = np.nan
    starts = np.array(["2025-03-01T00", "2025-03-02T05"], "datetime64[s]")
    known = known_steps(WHOLE, True)
    extra = {"mean": np.full(N, 50, np.float32), "std": np.full(N, 5, np.float32)}
    return {**windows.prepare(values, starts, profile, WHOLE, known), **extra}


@pytest.mark.parametrize("gap", [False, True])
@pytest.mark.parametrize("what", [500.0, np.nan])
def test_reconstruction_never_sees_what_it_is_asked_for(what: float, gap: bool) -> None:
    """Channels 1 and 3 are hidden together: their readings move only the answers for 0 and 2."""
    made = model(WHOLE, reconstruct=True)
    odd = slice(1, None, 2)
    before, after = ask(made, window(gap=gap)), ask(made, window(np.float32(what), odd, gap))
    for a, b in zip(before, after, strict=True):
        assert np.array_equal(a[:, :, odd], b[:, :, odd])
    assert not np.allclose(before[1][:, :, ::2], after[1][:, :, ::2]), "neighbours' present should count"


def test_a_reading_that_is_known_counts() -> None:
    made = model(WHOLE, reconstruct=True)
    one = window()
    other = {k: v.copy() for k, v in one.items()}
    other["values"][:, 3, 1] += 5
    assert not np.allclose(ask(made, one)[1][:, :, 1], ask(made, other)[1][:, :, 1])


def test_windows_of_a_batch_do_not_mix() -> None:
    made = model(SPEC)
    data = batch(SPEC, N)
    alone = {k: v[1:2] if v.ndim > 1 else v for k, v in data.items()}
    for whole, one in zip(ask(made, data), ask(made, alone), strict=True):
        assert whole[1:2] == pytest.approx(one, rel=1e-4, abs=1e-4)


def test_asked_steps_are_the_horizon_although_patches_are_longer() -> None:
    anchor, raw, scale = ask(model(SPEC), batch(SPEC, N))
    assert (anchor.shape, raw.shape, scale.shape) == ((3, 5, N), (3, 5, N, 4), (3, 1, N))
    assert (scale > 0).all()


def test_hidden_patches_have_no_influence_in_pretraining() -> None:
    torch.manual_seed(0)
    backbone = Backbone(CONFIG)
    made = Pretraining(backbone).eval()
    torch.nn.init.normal_(made.head["1h"].weight, std=0.1)
    spec = Spec.of(3600, 30, 6, "UTC")
    data = {k: torch.from_numpy(v) for k, v in batch(spec, N, missing=0).items()}
    data |= {
        "profile": data["profile"][:, :30],
        "calendar": data["calendar"][:, :5],
        "place": torch.zeros(N, 12),
        "kind": torch.ones(N, dtype=torch.int64),
        "sensor": torch.zeros(N, dtype=torch.int64),
        **{k: torch.from_numpy(v) for k, v in alone(N).items()},
    }
    changed = {**data, "values": data["values"].clone()}
    changed["values"][:, 12:18, 1] += 3

    def guess(data: dict[str, torch.Tensor], patch: int) -> torch.Tensor:
        """What is answered of a hidden patch of channel 1, [3, P]."""
        mask = torch.zeros(3, 5, N)
        mask[:, patch, 1] = 1
        with torch.no_grad():
            answer: torch.Tensor = made(
                "1h", {**data, "hidden": mask.transpose(1, 2).reshape(-1).nonzero()[:, 0]}, mask
            )[0]
        return answer

    assert guess(data, 2).shape == (3, 6)
    # Weights of 1e-8 keep an all-hidden channel finite; nothing more may come through.
    assert guess(changed, 2).numpy() == pytest.approx(guess(data, 2).numpy(), abs=1e-5)
    assert not np.allclose(guess(changed, 3).numpy(), guess(data, 3).numpy(), atol=1e-2)


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("width", [24, 30])
def test_training_attends_as_serving_does(axis: int, width: int) -> None:
    """The kept scores against torch's kernel, with runs of numbers that fit sixteen bytes and runs that do not."""
    torch.manual_seed(0)
    qkv = torch.randn(2, 3, 5, 3 * width, requires_grad=True)
    kept = attend(qkv, 2, axis)
    with torch.no_grad():
        assert kept.detach().numpy() == pytest.approx(attend(qkv.detach(), 2, axis).numpy(), abs=1e-6)
    no_bias = torch.zeros(1, 2, qkv.shape[axis], qkv.shape[axis])
    of = torch.randn_like(kept)
    ours, theirs = (torch.autograd.grad((made * of).sum(), qkv)[0] for made in (kept, attend(qkv, 2, axis, no_bias)))
    assert ours.numpy() == pytest.approx(theirs.numpy(), abs=1e-5)


@pytest.mark.parametrize("space", [True, False])
def test_chosen_tokens_are_as_among_all(space: bool) -> None:
    """Also where channels meet in the last block; they meet in every second one, or in none."""
    torch.manual_seed(0)
    block = Block(48, 4, space)
    channels = Channels(*(torch.zeros(N, 0, dtype=torch.int64) for _ in Channels._fields))
    x, only = torch.randn(2, N, 5, 48), torch.tensor([0, 7, 39])
    with torch.no_grad():
        whole = block(x, channels).reshape(-1, 48)[only]
        assert block(x, channels, only).numpy() == pytest.approx(whole.numpy(), abs=1e-6)
    for made, meet in ((CONFIG, [False, True, False]), (replace(CONFIG, space=False), [False] * 3)):
        assert [b.space is not None for b in Backbone(made).blocks] == meet


def test_what_was_last_shown_before_a_patch() -> None:
    values = torch.arange(1.0, 9)[None, :, None].repeat(1, 1, 3)
    shown = [[1, 1, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1, 0, 0], [0] * 8]
    seen = torch.tensor(shown, dtype=torch.float32).T[None]
    found = last_shown(values, seen, 2)[0].T
    assert found.tolist() == [[2, 2, 2, 2], [5, 5, 6, 6], [0, 0, 0, 0]]


def test_sizes_are_what_they_say() -> None:
    with torch.device("meta"):
        count = {s: sum(p.numel() for p in Backbone(Config(s, ("a",), ("s",))).parameters()) / 1e6 for s in SIZES}
    assert count["tiny"] < 0.2
    assert 3 < count["small"] < 8
    assert 25 < count["base"] < 55
    assert 200 < count["large"] < 400


def test_config_survives_json() -> None:
    config = Config("tiny", ("a", "b"), ("s/a",), (52.0, 4.5))
    assert Config.from_json(config.to_json()) == config
