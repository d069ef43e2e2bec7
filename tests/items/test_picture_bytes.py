"""Strangers' pictures: bounds held before decoding, one form out of many, nothing of people and places left behind."""

import contextlib
import io
import warnings
from typing import Any

import numpy as np
import pytest
from item_city import encoded, scene
from PIL import Image, ImageOps

from pipelines.core import pictures
from pipelines.core.pictures import Bounds, Unfit

PICTURE = Image.fromarray(scene(1))
SECRET = "Canon of Mr Secret"


def exif(turn: int = 1) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = turn
    found[0x010F] = SECRET
    found.get_ifd(0x8825)[1] = "N"
    found.get_ifd(0x8825)[2] = (52.0, 22.0, 12.0)
    return found


def close(a: Any, b: Any) -> bool:
    return bool(np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int)).mean() < 4)


@pytest.mark.parametrize(
    ("data", "reason", "said"),
    [
        (b"", "not_a_picture", "the file is empty"),
        (b"speed,flow\n1,2\n", "not_a_picture", "bytes of text"),
        (b"%PDF-1.7\0\1\2", "not_a_picture", "another kind"),
        (encoded(PICTURE, quality=95)[:-400], "truncated", "decoded to its end"),
        (encoded(PICTURE.resize((400, 300)), "PNG")[:-300], "truncated", "decoded to its end"),
        (encoded(PICTURE)[:20], "truncated", "breaks off"),
        (encoded(PICTURE.resize((1, 1))), "too_small", "1 × 1 pixels"),
        (encoded(Image.new("L", (10_000, 10_000))), "too_large", "pixels"),
        (encoded(Image.new("1", (20_000, 20_000)), "PNG"), "too_large", "pixels"),
        (encoded(PICTURE.resize((300, 10))), "aspect", "300 × 10"),
        (encoded(PICTURE, "GIF", save_all=True, append_images=[PICTURE.rotate(90)]), "animated", "single pictures"),
        (encoded(PICTURE, "PNG", save_all=True, append_images=[PICTURE.rotate(90)]), "animated", "single pictures"),
        (encoded(PICTURE, "WEBP", save_all=True, append_images=[PICTURE.rotate(90)]), "animated", "single pictures"),
        (encoded(Image.fromarray(np.zeros((20, 20), np.float32)), "TIFF"), "colours", "mode F"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_used_is_refused_with_its_reason(data: bytes, reason: str, said: str) -> None:
    for given in (data, pictures.clean(data)):  # the reason outlives what is kept in the file's place
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(Unfit, match=said) as caught:
                pictures.decode(given)
        assert caught.value.reason == reason
        assert "\n" not in str(caught.value)
        assert "0x" not in str(caught.value)


def test_a_bomb_is_refused_by_its_header() -> None:
    """A gigapixel picture of a few kilobytes: no memory is asked for it."""
    import resource

    bomb = encoded(Image.new("1", (13_000, 13_000)), "PNG")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Unfit, match="13000 × 13000"):
        pictures.decode(bomb)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # kilobytes
    with pytest.raises(Unfit, match="bytes"):
        pictures.decode(encoded(PICTURE), Bounds(size=100))


def test_every_kind_of_colour_becomes_rgb() -> None:
    plain = np.asarray(PICTURE)
    assert close(pictures.decode(encoded(PICTURE.convert("CMYK"), quality=95)), plain)
    assert close(pictures.decode(encoded(PICTURE.convert("P", palette=Image.Palette.ADAPTIVE), "PNG")), plain)
    grey = np.asarray(PICTURE.convert("L"))
    deep = pictures.decode(encoded(grey.astype(np.uint16) * 257, "PNG"))
    assert np.array_equal(np.asarray(deep), np.repeat(grey[..., None], 3, 2))
    clear = PICTURE.convert("RGBA")
    clear.putalpha(0)
    assert (np.asarray(pictures.decode(encoded(clear, "PNG"))) == 255).all()
    for found in (pictures.decode(encoded(PICTURE.convert(mode), "PNG")) for mode in ("1", "L", "LA", "RGB")):
        assert (found.mode, found.size) == ("RGB", PICTURE.size)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_a_turned_picture_stands_upright_and_says_nothing_of_its_maker(form: str, turn: int) -> None:
    more: dict[str, Any] = {"JPEG": {"comment": SECRET, "quality": 95}, "PNG": {}, "WEBP": {"lossless": True}}[form]
    data = encoded(PICTURE, form, exif=exif(turn), **more)
    assert SECRET.encode() in data
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert np.array_equal(np.asarray(pictures.decode(data)), np.asarray(upright))
    kept = pictures.clean(data)
    assert SECRET.encode() not in kept
    assert not Image.open(io.BytesIO(kept)).getexif()
    assert close(pictures.decode(kept), upright)
    assert pictures.size(data) == pictures.size(kept) == upright.size
    assert pictures.clean(kept) == kept


def test_what_follows_a_pictures_end_goes_too() -> None:
    for form in ("JPEG", "PNG", "GIF", "WEBP"):
        data = encoded(PICTURE, form)
        assert pictures.clean(data + b"a film with sound") == pictures.clean(data)
    assert pictures.clean(encoded(PICTURE)) == encoded(PICTURE)  # pixels are not encoded again
    progressive = encoded(PICTURE, progressive=True, comment=SECRET)
    assert np.array_equal(
        np.asarray(pictures.decode(pictures.clean(progressive))), np.asarray(pictures.decode(progressive))
    )
    assert SECRET.encode() not in pictures.clean(b"GIF89a" + encoded(PICTURE, "GIF", comment=SECRET)[6:])


def test_no_bytes_make_it_crash() -> None:
    rng = np.random.default_rng(0)
    kinds: list[tuple[str, dict[str, Any]]] = [("JPEG", {"exif": exif(6)}), ("PNG", {"exif": exif(3)})]
    forms = [encoded(PICTURE, form, **more) for form, more in [*kinds, ("GIF", {}), ("WEBP", {}), ("TIFF", {})]]
    for i in range(400):
        data = bytearray(forms[i % len(forms)])
        for _ in range(rng.integers(1, 8)):
            data[rng.integers(len(data))] = rng.integers(256)
        data = data[: rng.integers(1, len(data) + 1)] if i % 2 else data
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, on odd EXIF
            for given in (bytes(data), pictures.clean(bytes(data))):
                with contextlib.suppress(Unfit):
                    pictures.decode(given)


def test_boxes_go_into_the_square_and_back() -> None:
    for width, height in ((48, 40), (40, 97), (64, 64), (1000, 9)):
        place = pictures.fit(width, height, 32)
        boxes = np.array([[0, 0, width, height], [width / 4, height / 2, width / 2, height / 4]])
        inside = place.to_square(boxes)
        assert (inside >= 0).all()
        assert (inside[:, :2] + inside[:, 2:] <= 1 + 1e-9).all()
        assert np.allclose(place.to_picture(inside), boxes)
    assert np.allclose(pictures.fit(40, 20, 40).to_square([[0, 0, 40, 20]]), [[0, 0.25, 1, 0.5]])
    assert np.allclose(pictures.fit(40, 20, 40).to_picture([[0, 0, 1, 1]]), [[0, 0, 40, 20]])  # margins cut off


def test_a_square_holds_the_picture_in_grey_margins() -> None:
    pixels, place = pictures.square(encoded(PICTURE, "PNG"), 32)
    assert (pixels.shape, pixels.dtype) == ((32, 32, 3), np.uint8)
    assert place.inner == (32, 27)
    assert (pixels[: place.top] == pictures.FILL).all()
    assert (pixels[place.top + 27 :] == pictures.FILL).all()
    large = PICTURE.resize((1920, 1600), Image.Resampling.NEAREST)
    quick, _ = pictures.square(encoded(large, quality=95), 32)  # decoded at a fraction of its size
    slow, _ = pictures.square(encoded(large, "PNG"), 32)
    assert close(quick, slow)
