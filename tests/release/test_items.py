"""Predictors of pictures and messages: toy bundles answered as worked out by hand, alone and together."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import posted
import pytest

from pipelines.core.errors import UserError
from pipelines.release import bundle, items, rows
from pipelines.release.predictor import Predictor

KINDS = (("image", "classify"), ("image", "locate"), ("text", "classify"), ("text", "tag"))


def made(folder: Path, modality: str, objective: str, factor: float = 1.0, **told: Any) -> Any:
    bundle.write(folder / "b", posted.contents(modality, objective, factor, **told))
    return items.load(folder / "b", threads=1)


@pytest.mark.parametrize(("modality", "objective"), KINDS)
def test_every_kind_is_loaded_by_its_modality_and_agrees_with_its_golden_answers(
    tmp_path: Path, modality: str, objective: str
) -> None:
    predictor = made(tmp_path, modality, objective)
    assert (predictor.modality, predictor.objective) == (modality, objective)
    assert predictor.golden() < 1e-6
    assert len(predictor.predict([predictor.example()])) == 1
    # Another model with the first one's golden answers is found out.
    changed = {**posted.contents(modality, objective, 0.7)}
    changed["golden.safetensors"] = posted.contents(modality, objective)["golden.safetensors"]
    bundle.write(tmp_path / "c", changed)
    assert items.load(tmp_path / "c").golden() > 1e-2


def test_a_series_bundle_gives_the_predictor_of_series(tmp_path: Path) -> None:
    import carded

    bundle.write(tmp_path / "b", carded.contents())
    assert isinstance(items.load(tmp_path / "b", threads=1), Predictor)
    bundle.write(tmp_path / "c", posted.contents(modality="image") | {"config.json": b'{"modality": "sound"}'})
    with pytest.raises(UserError, match="modality 'sound'"):
        items.load(tmp_path / "c")
    with pytest.raises(UserError, match="no such file"):
        items.load(tmp_path / "nothing")
    (tmp_path / "b" / "config.json").write_bytes(b"{}")
    with pytest.raises(UserError, match="not the bytes"):
        items.load(tmp_path / "b")


def test_a_picture_is_classified_by_its_colour(tmp_path: Path) -> None:
    predictor = made(tmp_path, "image", "classify")
    some = [posted.photo(colour=c, width=32, height=32) for c in ((250, 0, 0), (0, 250, 0), (0, 0, 250))] * 7
    answers = predictor.predict(some)
    assert [a["label"] for a in answers] == list(posted.COLOURS) * 7
    assert all(abs(sum(a["probabilities"].values()) - 1) < 1e-5 for a in answers)
    assert all(max(a["probabilities"], key=a["probabilities"].get) == a["label"] for a in answers)
    alone = predictor.predict(some[:1])[0]["probabilities"]
    assert alone == pytest.approx(answers[0]["probabilities"], abs=1e-5)
    pixels = np.stack([predictor.read(one)[0] for one in some])
    assert predictor.probabilities(pixels).shape == (21, 3)


def test_boxes_are_in_pixels_of_the_picture_that_was_sent(tmp_path: Path) -> None:
    """A wide one lies in the square between margins above and below, a tall one between margins at its sides."""
    predictor = made(tmp_path, "image", "locate")
    wide, tall, dark = predictor.predict([
        posted.photo(200, 100, (255, 0, 0), "PNG"), posted.photo(100, 400, (255, 0, 0), "PNG"),
        posted.photo(100, 100, (40, 0, 0), "PNG"),
    ])  # fmt: skip
    assert (wide["width"], wide["height"], tall["width"], tall["height"]) == (200, 100, 100, 400)
    box = wide["boxes"][0]
    assert [box[k] for k in ("label", "x", "y", "width", "height")] == ["car", 0, 0, 100, 100]
    assert 0.5 < box["score"] < 1, "the margins are grey"
    assert [tall["boxes"][0][k] for k in ("x", "y", "width", "height")] == [0, 0, 50, 400]
    assert dark["boxes"] == []
    assert (
        len(made(tmp_path, "image", "locate", decision=0.9).predict([posted.photo(200, 100, (255, 0, 0))])[0]["boxes"])
        == 0
    )
    boxes, scores, labels = next(predictor.boxes(predictor.read(posted.photo())[0][None]))
    assert (boxes.shape, scores.shape, labels.shape) == ((2, 4), (2,), (2,))


def test_spans_are_in_code_points_of_the_text_that_was_given(tmp_path: Path) -> None:
    predictor = made(tmp_path, "text", "tag")
    text = "on 🚗 the ring: jam jam " + "road " * 30 + "车 jam"
    found = predictor.predict([text])[0]["spans"]
    assert [text[s["start"] : s["end"]] for s in found] == ["jam", "jam", "jam"]
    assert found[0]["score"] == pytest.approx(0.9, abs=1e-5)
    assert predictor.spans([text, "free road"]) == [[(s["start"], s["end"], 0) for s in found], []]


def test_personal_data_are_masked_for_the_model_and_spans_lie_in_the_text_as_it_was(tmp_path: Path) -> None:
    pytest.importorskip("pipelines.core.personal")
    text = "call 138-0013-8000, jam on the ring, or mail ada@example.org, jam"
    predictor = made(tmp_path, "text", "tag", mask=True)
    read, _ = predictor.read(text)
    assert "138" not in read
    assert "ada@" not in read
    found = predictor.predict([text])[0]["spans"]
    assert [text[s["start"] : s["end"]] for s in found] == ["jam", "jam"]
    assert predictor.read(read)[0] == read
    assert made(tmp_path, "text", "tag").read(text)[0] == text


def test_a_batch_of_texts_says_what_each_says_alone(tmp_path: Path) -> None:
    predictor = made(tmp_path, "text", "classify")
    some = ["jam", "jam on", "jam on the ring road", "free"] * 12
    together = predictor.predict(some)
    assert [a["label"] for a in together] == ["odd", "even", "odd", "odd"] * 12
    assert together[1] == predictor.predict(["jam on"])[0]


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_a_text_without_text_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match="empty"):
        made(tmp_path, "text", "classify").predict(["jam", text])


@pytest.mark.parametrize(
    ("data", "said"), [(b"", "not_a_picture"), (posted.photo()[:300], "truncated"), (b"hi", "not_a_")]
)
def test_what_is_no_picture_is_refused(tmp_path: Path, data: bytes, said: str) -> None:
    with pytest.raises(UserError, match=said):
        made(tmp_path, "image", "classify").predict([data])


def test_how_far_answers_differ() -> None:
    red, blue = {"label": "red", "probabilities": {}}, {"label": "blue", "probabilities": {}}
    assert items.disagreement([red, red], [red, blue]) == 0.5

    def boxes(*each: tuple[str, float]) -> dict[str, Any]:
        every = [{"label": label, "score": 1.0, "x": x, "y": 0, "width": 10, "height": 10} for label, x in each]
        return {"width": 50, "height": 50, "boxes": every}

    assert items.disagreement([boxes()], [boxes()]) == 0
    assert items.disagreement([boxes(("car", 0))], [boxes()]) == 1
    assert items.disagreement([boxes(("car", 0))], [boxes(("bus", 0))]) == 1
    assert items.disagreement([boxes(("car", 0))], [boxes(("car", 5))]) == pytest.approx(1 - 1 / 3)
    one, other = ({"spans": [{"label": label, "start": 0, "end": end}]} for label, end in (("jam", 4), ("jam", 2)))
    assert items.disagreement([one], [other]) == 0.5
    assert items.disagreement([one], [{"spans": []}]) == 1
    assert items.disagreement([{"spans": []}], [{"spans": []}]) == 0
    assert items.disagreement([one], [red]) is None


def test_mlflow_s_rows(tmp_path: Path) -> None:
    data = posted.photo(32, 32, (0, 250, 0))
    colour = rows.of(made(tmp_path, "image", "classify"))
    frame = pd.DataFrame({"image": [data, base64.b64encode(data).decode()]})
    told = colour.predict(frame)
    assert list(told.columns) == ["label", *posted.COLOURS]
    assert told["label"].tolist() == ["green", "green"]
    with pytest.raises(UserError, match="base64"):
        colour.predict(pd.DataFrame({"image": ["?"]}))
    assert isinstance(colour, rows.ItemRows)
    assert colour.example()["image"][0].startswith(b"\x89PNG")
    tagged = rows._load_pyfunc(str(made(tmp_path, "text", "tag").folder)).predict(pd.DataFrame({"text": ["a jam"]}))
    assert json.loads(tagged["found"][0])[0]["start"] == 2
