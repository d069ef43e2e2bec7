"""Fine-tuning methods: what they train, that adapters become plain weights, and what holds weights to their start."""

from typing import Any

import pytest
import torch
from torch import nn

from pipelines.core.errors import UserError
from pipelines.core.params import Finetune
from pipelines.models import families
from pipelines.models.tokens import Config
from pipelines.models.tuning import Tuning

STEPS = 30


class Model(nn.Module):
    """A backbone with a head, as a task's model has them; asked through its linear maps in a row."""

    def __init__(self, family: str = "transformer") -> None:
        super().__init__()
        torch.manual_seed(0)
        config = {"size": "tiny", "family": family, "kinds": ["a"], "sensors": ["s/a"], "units": ["u"]}
        known = {k: v for k, v in config.items() if k in Config.__dataclass_fields__}
        self.backbone = families.build(Config(**{k: tuple(v) if isinstance(v, list) else v for k, v in known.items()}))
        self.head = nn.Linear(self.backbone.width, 24)
        nn.init.zeros_(self.head.weight)

        self.maps = [n for n, m in self.backbone.blocks.named_modules() if type(m) is nn.Linear]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        width = x.shape[1]
        for name in self.maps:
            part = self.backbone.blocks.get_submodule(name)
            x = x + 0.1 * torch.tanh(part(x.repeat(1, 2)[:, : part.in_features]))[:, :width]
        return self.head(x) + x[:, :24]


def settings(**more: Any) -> Finetune:
    return Finetune.model_validate({"steps": STEPS, "learning_rate": 1e-2, **more})


def train(model: Model, tuning: Tuning, first: int = 1, last: int = STEPS) -> None:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for step in range(first, last + 1):
        x = torch.randn(16, model.backbone.width, generator=torch.Generator().manual_seed(step))
        loss = (model(x) - x[:, :24].flip(1)).square().mean() + tuning.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tuning.after(step)


def names(model: Model) -> set[str]:
    return set(model.state_dict())


@pytest.mark.parametrize("method", ["lora", "adalora"])
def test_adapters_become_plain_weights_that_answer_alike(method: str) -> None:
    model = Model()
    plain, before = names(model), {n: p.clone() for n, p in model.named_parameters()}
    tuning = Tuning.apply(model, settings(method=method))
    x = torch.randn(4, model.backbone.width)
    assert torch.equal(model(x), Model()(x)), "an adapter changes nothing before it is trained"
    train(model, tuning)
    adapted = model(x)
    tuning.merge()
    assert names(model) == plain
    assert torch.allclose(model(x), adapted, atol=1e-5)
    # AdaLoRA shares its ranks out: some maps may end without any.
    after = dict(model.named_parameters())
    assert any(not torch.equal(after[n], before[n]) for n in (f"backbone.blocks.{m}.weight" for m in model.maps))


def test_lora_trains_at_most_a_twentieth_of_a_tiny_model() -> None:
    tuning = Tuning.apply(Model(), settings(method="lora"))
    assert 0 < tuning.trained <= 0.05 * tuning.parameters
    assert tuning.parameters == sum(p.numel() for p in Model().parameters())


@pytest.mark.parametrize("method", ["full", "lora"])
def test_frozen_blocks_and_embeddings_stay_as_they_are(method: str) -> None:
    model = Model()
    before = {n: p.clone() for n, p in model.named_parameters()}
    tuning = Tuning.apply(model, settings(method=method, freeze=2))
    train(model, tuning)
    tuning.merge()
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert changed
    assert all(n.startswith(("backbone.blocks.2.", "head.", "backbone.norm.")) for n in changed), changed


def test_adalora_ends_with_its_mean_rank_and_goes_on_from_what_a_checkpoint_holds() -> None:
    whole, stopped = Model(), Model()
    asked = settings(method="adalora", rank=2)
    torch.manual_seed(1)
    one = Tuning.apply(whole, asked)
    train(whole, one)
    torch.manual_seed(1)
    first = Tuning.apply(stopped, asked)
    train(stopped, first, last=17)
    kept = {k: v.clone() for k, v in stopped.state_dict().items()}
    again = Model()
    second = Tuning.apply(again, asked)
    again.load_state_dict(kept)
    train(again, second, first=18)
    for (name, a), (_, b) in zip(whole.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    ranks = [int((p != 0).sum()) for n, p in whole.named_parameters() if "lora_E" in n]
    assert len(ranks) > 3
    assert sum(ranks) <= 2 * len(ranks) < sum(p.numel() for n, p in whole.named_parameters() if "lora_E" in n)


def test_a_pull_to_the_start_is_nothing_there_and_keeps_weights_nearer() -> None:
    far = {}
    for pull in (0.0, 1.0):
        model = Model()
        tuning = Tuning.apply(model, settings(l2_to_start=pull))
        assert float(tuning.penalty()) == 0
        before = model.backbone.blocks[0].mlp[0].weight.detach().clone()
        train(model, tuning)
        far[pull] = float((model.backbone.blocks[0].mlp[0].weight - before).norm())
    assert float(tuning.penalty()) > 0
    assert far[1.0] < 0.5 * far[0.0]


def test_one_learning_rate_serves_all_methods() -> None:
    rates = {m: Tuning.apply(Model(), settings(method=m)).settings.learning_rate for m in ("full", "head", "adalora")}
    assert rates["full"] == 1e-2
    assert min(rates["head"], rates["adalora"]) > rates["full"]


@pytest.mark.parametrize(
    ("family", "asked", "word"),
    [
        ("transformer", {"freeze": 4}, "has 3 blocks"),
        ("lstm", {"method": "lora"}, "take method full or head"),
        ("transformer", {"method": "adalora", "strategy": "fsdp"}, "take lora"),
        ("transformer", {"l2_to_start": 0.1, "strategy": "fsdp"}, "take ddp"),
    ],
)
def test_what_cannot_be_is_one_line(family: str, asked: dict[str, Any], word: str) -> None:
    with pytest.raises(UserError, match=word) as error:
        Tuning.apply(Model(family), settings(**asked))
    assert "\n" not in str(error.value)
