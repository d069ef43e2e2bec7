"""The siblings: one shape, and answers that keep their promises whatever the head says."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.core.windows import Spec, known_steps
from pipelines.models import objectives
from pipelines.models.objectives import anomaly, classify, impute, vae
from pipelines.models.vae import CODE, Codes

HERE = Path(objectives.__file__).parent
NAMES = sorted(p.stem for p in HERE.glob("*.py") if p.stem != "__init__")
B, H, N = 3, 5, 4
RNG = np.random.default_rng(0)
AUX: dict[str, Any] = {
    "names": ["jam", "slow", "free"],
    "edges": [0.45, 0.75],
    "noise": torch.linspace(0.1, 1, H),
    "weights": torch.ones(3),
    "reference": torch.full((N,), 60.0),
}
PLAIN = {k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in AUX.items()}


def said(name: str, raw: torch.Tensor | None = None) -> torch.Tensor:
    sibling = objectives.load(name)
    anchor = torch.from_numpy(RNG.normal(40, 15, (B, H, N)).astype(np.float32))
    raw = torch.zeros(B, H, N, sibling.outputs(AUX)) if raw is None else raw
    answer: torch.Tensor = sibling.answer(anchor, raw, torch.full((B, 1, N), 6.0), AUX)
    return answer


def test_every_sibling_is_known() -> None:
    assert NAMES == ["anomaly", "classify", "forecast", "impute", "vae"]


@pytest.mark.parametrize("name", NAMES)
def test_siblings_share_one_shape(name: str) -> None:
    sibling = objectives.load(name)
    assert isinstance(sibling.PRIMARY, str)
    assert isinstance(sibling.HIGHER_IS_BETTER, bool)
    wanted = {
        "names": ["aux"],
        "outputs": ["aux"],
        "answer": ["anchor", "raw", "scale", "aux"],
        "loss": ["answer", "truth", "seen", "unit", "aux"],
        "truth": ["values", "aux"],
        "from_values": ["values", "aux"],
        "baselines": ["batch", "spec", "known", "n"],
    }
    for function, arguments in wanted.items():
        assert list(inspect.signature(getattr(sibling, function)).parameters) == arguments
    assert callable(sibling.score)
    assert set(sibling.CALIBRATION) <= {"spread", "decision", "alarm"}
    assert callable(getattr(sibling, "errors", None)) is ("alarm" not in sibling.CALIBRATION)
    assert sibling.ANCHOR in ("ridge", "profile")
    assert sibling.RECONSTRUCT or not sibling.BOTH_SIDES
    assert sibling.ACT
    assert sibling.WHEN
    answer = said(name)
    assert answer.shape == (B, H, N, len(sibling.names(AUX)))
    values = RNG.normal(40, 15, (B, H, N)).astype(np.float32)
    assert sibling.from_values(values, PLAIN).shape == answer.shape
    assert sibling.truth(values, PLAIN).shape == values.shape


@pytest.mark.parametrize("name", NAMES)
def test_loss_ignores_what_was_not_seen(name: str) -> None:
    sibling = objectives.load(name)
    answer = said(name, torch.randn(B, H, N, sibling.outputs(AUX)))
    truth = torch.from_numpy(RNG.integers(0, 3, (B, H, N)).astype(np.float32))
    seen = (torch.rand(B, H, N) < 0.5).float()
    other = torch.where(seen > 0, truth, torch.tensor(1.0))
    unit = torch.ones(N)
    total, weight = sibling.loss(answer, truth, seen, unit, AUX)
    assert total.ndim == 0
    assert weight == seen.sum()
    assert torch.equal(total, sibling.loss(answer, other, seen, unit, AUX)[0])
    assert sibling.loss(answer, truth, torch.zeros_like(seen), unit, AUX) == (0, 0)


@pytest.mark.parametrize("name", ["forecast", "impute", "anomaly", "vae"])
@pytest.mark.parametrize("size", [1.0, 30.0, 1000.0])
def test_quantiles_never_cross(name: str, size: float) -> None:
    torch.manual_seed(0)
    answer = said(name, size * torch.randn(B, H, N, objectives.load(name).outputs(AUX)))
    assert (answer[..., 0] <= answer[..., 1]).all()
    assert (answer[..., 1] <= answer[..., 2]).all()
    assert torch.isfinite(answer).all()


@pytest.mark.parametrize(("name", "floor"), [("forecast", 0), ("impute", 0), ("anomaly", 0), ("vae", 0.01)])
def test_untrained_quantiles_are_the_anchors_own_error(name: str, floor: float) -> None:
    answer = said(name)
    width = (answer[..., 2] - answer[..., 1]) / 6.0
    assert width == pytest.approx((1.2816 * (AUX["noise"] + floor))[None, :, None].expand(B, H, N), rel=1e-4)


def test_a_gaps_baselines_against_plain_loops() -> None:
    spec = Spec.of(3600, 24, 6, "UTC", both_sides=True)
    assert (spec.after, known_steps(spec, True)) == (6, 12)
    rng = np.random.default_rng(0)
    given = {"values": rng.normal(50, 9, (2, 24, 3)), "profile": rng.normal(50, 9, (2, 30, 3))}
    found = impute.baselines(given, spec, 12, 2)
    for b in range(2):
        for n in range(2):
            values, usual = given["values"][b, :, n], given["profile"][b, :, n]
            line = np.interp(np.arange(12, 18), [11, 18], values[[11, 18]])
            shift = np.interp(np.arange(12, 18), [11, 18], (values - usual[:24])[[11, 18]])
            assert found["last_value"][b, :, n] == pytest.approx(np.full(6, values[11]))
            assert found["linear"][b, :, n] == pytest.approx(line, rel=1e-5)
            assert found["profile"][b, :, n] == pytest.approx(usual[12:18] + shift, rel=1e-5)


def test_a_codes_cost_is_its_divergence_from_the_prior() -> None:
    torch.manual_seed(0)
    codes = Codes(8, 6)
    torch.nn.init.normal_(codes.encode.weight)
    tokens = torch.randn(2, 3, 1, 8)
    cost = codes(tokens).unflatten(-1, (6, 3))[..., 2].detach()
    mean, spread = codes.encode(tokens).chunk(2, dim=-1)
    normal = torch.distributions.Normal(mean, (0.5 * spread).exp())
    expected = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum(-1).detach()
    assert cost.sum(-1) == pytest.approx(expected, rel=1e-5)
    assert (cost >= 0).all()


def test_a_code_is_blurred_by_the_noise_it_is_given_and_by_nothing_else() -> None:
    torch.manual_seed(0)
    codes = Codes(8, 6)
    for layer in (codes.encode, codes.out):
        torch.nn.init.normal_(layer.weight)
    tokens = torch.randn(2, 3, 1, 8)
    assert torch.equal(codes(tokens), codes(tokens))
    assert torch.equal(codes(tokens), codes(tokens, torch.zeros(2, 3, 1, CODE)))
    assert not torch.allclose(codes(tokens), codes(tokens, torch.ones(2, 3, 1, CODE)), atol=1e-2)


def test_the_autoencoders_loss_is_the_negative_evidence_lower_bound() -> None:
    torch.manual_seed(0)
    raw = torch.randn(B, H, N, 3).abs()
    answer, truth = said("vae", raw), 40 + torch.randn(B, H, N)
    total, _ = vae.loss(answer, truth, torch.ones(B, H, N), torch.ones(N), AUX)
    sigma = (answer[..., 2] - answer[..., 1]) / 1.2816
    likelihood = torch.distributions.Normal(answer[..., 1], sigma).log_prob(truth) + 0.5 * np.log(2 * np.pi)
    assert total.item() == pytest.approx((raw[..., 2] - likelihood).sum().item(), rel=1e-4)


def test_untrained_class_probabilities_are_the_mass_between_the_edges() -> None:
    anchor = torch.full((1, H, N), 30.0)
    answer = classify.answer(anchor, torch.zeros(1, H, N, 3), torch.full((1, 1, N), 6.0), AUX)
    normal = torch.distributions.Normal(30.0, 6.0 * AUX["noise"])
    low, high = normal.cdf(torch.tensor(27.0)), normal.cdf(torch.tensor(45.0))
    mass = torch.stack([low, high - low, 1 - high], dim=-1).clamp(min=1e-3)
    assert answer[0, :, 0] == pytest.approx(mass / mass.sum(-1, keepdim=True), rel=1e-4)


def test_class_probabilities_sum_to_one() -> None:
    torch.manual_seed(0)
    answer = said("classify", 20 * torch.randn(B, H, N, 3))
    assert (answer >= 0).all()
    assert answer.sum(-1) == pytest.approx(torch.ones(B, H, N), abs=1e-5)


def test_classes_are_ranges_of_value_over_reference() -> None:
    values = np.array([[[26.9, 27.1, 44.9, 45.1]], [[np.nan, 0.0, 200.0, 60.0]]])
    found = classify.truth(values, PLAIN)
    assert found[0].tolist() == [[0, 1, 1, 2]]
    assert np.isnan(found[1, 0, 0])
    assert found[1, 0, 1:].tolist() == [0, 2, 2]
    answer = classify.from_values(values[:1], PLAIN)
    assert answer.sum(-1) == pytest.approx(np.ones((1, 1, 4)))
    assert answer.argmax(-1).tolist() == [[[0, 1, 1, 2]]]


def test_choose_separates_what_can_be_separated() -> None:
    rng = np.random.default_rng(0)
    label = (np.arange(2000) % 20 == 0).astype(float)
    score = np.where(label > 0, 5 + rng.random(2000), rng.random(2000))
    score[7] = np.nan
    threshold = anomaly.choose(score, label)
    assert anomaly.score(score, label, threshold)["f1"] > 0.99
    assert anomaly.score(score, label, threshold)["auroc"] == 1


def test_without_labels_one_reading_in_two_hundred_alarms() -> None:
    score = np.random.default_rng(0).random(10_000)
    assert (score > anomaly.choose(score, None)).mean() == pytest.approx(0.005, abs=0.001)
    assert (score > anomaly.choose(score, np.zeros(10_000))).mean() == pytest.approx(0.005, abs=0.001)
    assert anomaly.choose(np.full(5, np.nan), None) == 0


def test_decisions_lift_a_rare_class_on_validation() -> None:
    rng = np.random.default_rng(0)
    truth = (rng.random(3000) < 0.1).astype(float)
    share = np.clip(0.15 + 0.25 * truth + rng.normal(0, 0.08, 3000), 0.01, 0.99)
    answer = np.stack([1 - share, share], axis=-1)
    truth[:50] = np.nan
    aux = {"names": ["common", "rare"]}
    factors = classify.decide(answer, truth)
    before = classify.score(answer, truth, aux)
    after = classify.score(answer, truth, {**aux, "decision": factors})
    assert after["macro_f1"] > before["macro_f1"] + 0.1
    assert after["log_loss"] == before["log_loss"]
    wrong = classify.errors(answer, truth, {**aux, "decision": factors})
    assert 1 - np.nanmean(wrong) == pytest.approx(after["accuracy"])
    assert np.isnan(wrong[:50]).all()


def test_decisions_stay_as_they_are_without_truth_or_gain() -> None:
    answer = np.eye(3)[[0, 1, 2, 1]] * 0.9 + 0.03
    assert classify.decide(answer, np.array([0.0, 1, 2, 1])).tolist() == [1, 1, 1]
    assert classify.decide(answer, np.full(4, np.nan)).tolist() == [1, 1, 1]
