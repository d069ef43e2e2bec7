"""How much of a correction is kept: a share of the head is that share of what it corrects; it must help twice."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy_city

from pipelines.core import params
from pipelines.core.paths import Paths
from pipelines.models import beginning, earned
from pipelines.models.adapt import Adaptation, Lessons


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_city.ready(tmp_path_factory)


def prepare(root: Path, key: str, lessons: Lessons | None = None) -> Adaptation:
    city, paths = params.load(root), Paths(root)
    task = city.task(key)
    data = beginning.task_windows(city, task, paths.joined(key))
    begin = beginning.Beginning.of(city, task, data, paths.backbone(task.backbone), None)
    return Adaptation.prepare(task, data, begin.config, begin.weights, None, lessons)


def taught(root: Path, key: str, size: float = 0.05) -> Adaptation:
    """As if training had come to some head or other."""
    adapted = prepare(root, key)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in adapted.model.head.parameters():
            p.copy_(size * torch.randn(p.shape, generator=generator))
    return adapted


def said(adapted: Adaptation) -> tuple[torch.Tensor, torch.Tensor]:
    """Raw outputs, and the answer."""
    batch = adapted._batch(adapted.data.rows("validation", 1)[:3], None)
    with torch.no_grad():
        return adapted._parts(batch)[1], adapted._answer(batch)


def test_a_share_of_the_head_is_that_share_of_each_part_s_correction(ready: Path) -> None:
    adapted = taught(ready, "ahead")
    before, _ = said(adapted)
    earned.weaken(adapted, [0.25, 0.5])
    after, _ = said(adapted)
    torch.testing.assert_close(after[..., :3], 0.25 * before[..., :3])
    torch.testing.assert_close(after[..., 3], 0.5 * before[..., 3])


@pytest.mark.parametrize("key", ["ahead", "state"])
def test_with_nothing_kept_the_answer_is_the_anchor_s(ready: Path, key: str) -> None:
    adapted = taught(ready, key)
    _, untrained = said(prepare(ready, key))
    earned.weaken(adapted, [0.0] * len(adapted.objective.APART))
    torch.testing.assert_close(said(adapted)[1], untrained)


@pytest.mark.parametrize("key", ["ahead", "state"])
def test_what_is_missed_adds_up_by_part(ready: Path, key: str) -> None:
    adapted = taught(ready, key)
    rows = adapted.data.rows("validation", 1)[:20]
    missed = adapted.misses(rows, (0.0, 1.0))
    assert missed.shape == (2, len(adapted.objective.APART))
    with torch.no_grad():
        batch = adapted._batch(rows, None)
        answer, n = adapted._answer(batch), batch["truth"].shape[-1]
        own = adapted.objective.misses(answer, batch["truth"], batch["unit"][:n], adapted.torch_aux())
    np.testing.assert_allclose(missed[1], (own * batch["seen"][..., None]).sum((0, 1, 2)), rtol=1e-5)
    if key == "state":
        np.testing.assert_allclose(missed[1, 0], adapted._loss(batch)[0].detach(), rtol=1e-5)


def test_a_correction_that_only_harms_is_not_kept(ready: Path) -> None:
    adapted = taught(ready, "ahead", size=10.0)
    assert earned.asked(adapted).tolist() == [0.0, 0.0]


def test_the_share_is_the_mean_of_what_two_periods_ask_for(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapted, given = taught(ready, "ahead"), []
    before, _ = said(adapted)

    def again(lessons: Lessons) -> Adaptation:
        given.append(lessons)
        return prepare(ready, "ahead", lessons)

    wish = {id(adapted): [1.0, 0.5]}
    monkeypatch.setattr(earned, "asked", lambda a: np.array(wish.get(id(a), [0.5, 0.0])))
    assert earned.keep(adapted, again, "finetune ahead, rehearsal") == [0.75, 0.25]
    torch.testing.assert_close(said(adapted)[0][..., 3], 0.25 * before[..., 3])
    (lessons,) = given
    all_, asked = adapted.lessons.new, adapted.data.spec.horizon
    assert lessons.new[0] == all_[0]
    assert lessons.held[-1] == all_[-1]
    assert len(lessons.held) == pytest.approx(len(all_) / 4, abs=1)
    assert lessons.new[-1] + asked <= lessons.held[0], "what is asked for is not told before"


def test_too_few_windows_are_not_rehearsed(ready: Path) -> None:
    adapted = taught(ready, "ahead", size=10.0)
    few = Lessons(adapted.lessons.new[-4:], adapted.lessons.old, adapted.lessons.held)
    assert few.rehearsal(adapted.data) is None
    adapted.lessons = few

    def never(lessons: Lessons) -> Any:
        raise AssertionError

    assert earned.keep(adapted, never, "finetune ahead, rehearsal") == [0.0, 0.0]


def test_all_is_kept_around_another_anchor_than_the_ridge(ready: Path) -> None:
    adapted = taught(ready, "leaks")
    before, _ = said(adapted)

    def never(lessons: Lessons) -> Any:
        raise AssertionError

    assert earned.keep(adapted, never, "finetune leaks, rehearsal") == []
    torch.testing.assert_close(said(adapted)[0], before)
