"""Pictures that nobody vouches for: decoded within bounds, brought into one form, rid of what their file says of us.

What cannot be used raises `Unfit` with a reason code, never anything else. Bounds are held against the header,
before a pixel is decoded.
"""

import hashlib
import io
import re
import struct
import warnings
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

Array = np.ndarray[Any, Any]
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
FILL = 114
"""The grey, 0 … 255, of a letter-boxed picture's margins."""
_UNKEPT = b"not kept: "
_TURNED = 0x0112  # EXIF's orientation, and what undoes it, by Pillow's numbers
_TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
_JPEG_KEPT = {0xC0, 0xC1, 0xC2, 0xC3, 0xC4, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCC, 0xCD, 0xCE, 0xCF}
_JPEG_KEPT |= {0xDA, 0xDB, 0xDD, 0xEE}  # scan, tables, restarts; what Adobe says of colours
_SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_PNG_KEPT = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"gAMA", b"cHRM", b"sRGB", b"acTL", b"fcTL", b"fdAT"}
_WEBP_KEPT = {b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF"}
_PLAIN = {"1", "L", "P", "LA", "La", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"}


class Unfit(ValueError):
    """A picture that cannot be used. `reason` is a code: not_a_picture, truncated, too_small, too_large, aspect,
    animated, colours."""

    def __init__(self, reason: str, said: str) -> None:
        super().__init__(said)
        self.reason = reason


class Bounds(NamedTuple):
    """Pixels of the shorter and the longer side, pixels in all, longer ÷ shorter side, bytes of the file."""

    side: tuple[int, int] = (8, 12_000)
    pixels: int = 40_000_000
    aspect: float = 10.0
    size: int = 64 << 20


BOUNDS = Bounds()
ANY = Bounds((1, 65_535), 40_000_000, 65_535.0)
"""What can be decoded without danger, however useless."""


def opened(data: bytes, bounds: Bounds = BOUNDS) -> "Image":
    """The picture, not decoded yet, its header within `bounds`. Raises Unfit."""
    if data.startswith(_UNKEPT):
        reason, _, said = data[len(_UNKEPT) :].decode("utf-8", "replace").partition(": ")
        raise Unfit(reason, said.strip())
    if len(data) > bounds.size:
        raise Unfit("too_large", f"the file has {len(data):,} bytes, at most {bounds.size:,} are taken")
    image = _header(data)
    (width, height), (least, most) = image.size, bounds.side
    told = f"{width} × {height} pixels"
    if max(width, height) > most or width * height > bounds.pixels:
        raise Unfit("too_large", f"{told}; at most {most:,} a side and {bounds.pixels:,} in all are taken")
    if min(width, height) < least:
        raise Unfit("too_small", f"{told}; at least {least} a side are asked")
    if max(width, height) > bounds.aspect * min(width, height):
        raise Unfit("aspect", f"{told}; one side is at most {bounds.aspect:g} times the other")
    if _animated(image):
        raise Unfit("animated", "several frames in one file; give single pictures")
    if image.mode not in _PLAIN and not image.mode.startswith("I"):
        raise Unfit("colours", f"colours of mode {image.mode} have no agreed look; save it as RGB")
    return image


def decode(data: bytes, bounds: Bounds = BOUNDS, near: int = 0) -> "Image":
    """RGB, 8 bit, upright: CMYK, 16 bit, palettes and alpha (over white) converted, EXIF's turn made. Raises Unfit.

    With `near`, a JPEG may come smaller, though no side below `near`, in a fraction of the time.
    """
    return _loaded(opened(data, bounds), near)


def size(data: bytes, bounds: Bounds = ANY) -> tuple[int, int]:
    """Width and height as one sees it, upright, by the header alone. Raises Unfit."""
    return _upright(opened(data, bounds))


class Fit(NamedTuple):
    """Where a picture of width × height lies in a square of `side`: at left, top, with `inner` pixels each way."""

    width: int
    height: int
    side: int
    left: int
    top: int
    inner: tuple[int, int]

    def to_square(self, boxes: Array) -> Array:
        """x, y, width, height in the picture's pixels, float [n, 4], to fractions of the square."""
        scale = np.array([self.inner[0] / self.width, self.inner[1] / self.height] * 2)
        return (np.asarray(boxes, float).reshape(-1, 4) * scale + [self.left, self.top, 0, 0]) / self.side

    def to_picture(self, boxes: Array) -> Array:
        """The way back; what lies in the margins is cut off at the picture's edge."""
        scale = np.array([self.width / self.inner[0], self.height / self.inner[1]] * 2)
        found = (np.asarray(boxes, float).reshape(-1, 4) * self.side - [self.left, self.top, 0, 0]) * scale
        ends = np.clip(found[:, :2] + found[:, 2:], 0, [self.width, self.height])
        starts = np.clip(found[:, :2], 0, [self.width, self.height])
        return np.concatenate([starts, ends - starts], axis=1)


def fit(width: int, height: int, side: int) -> Fit:
    """Letter-boxing: as large as fits, in the middle."""
    scale = side / max(width, height)
    inner = (max(1, round(width * scale)), max(1, round(height * scale)))
    return Fit(width, height, side, (side - inner[0]) // 2, (side - inner[1]) // 2, inner)


def square(data: bytes, side: int, bounds: Bounds = BOUNDS) -> tuple[Array, Fit]:
    """The picture letter-boxed, uint8 [side, side, 3], and how it lies there. Raises Unfit."""
    image = opened(data, bounds)
    place = fit(*_upright(image), side)
    image = _loaded(image, near=2 * side)
    out = np.full((side, side, 3), FILL, np.uint8)
    small = image.resize(place.inner, _pillow().Resampling.BILINEAR, reducing_gap=3.0)
    out[place.top : place.top + place.inner[1], place.left : place.left + place.inner[0]] = np.asarray(small)
    return out, place


def clean(data: bytes) -> bytes:
    """The same picture without EXIF, GPS, comments, previews and whatever follows its end. Never raises.

    JPEG, PNG, WebP and GIF keep their pixels' bytes; one that EXIF turns is turned and encoded anew, as are BMP and
    TIFF (to PNG). Of what is no picture only a line remains that says why: it may say anything of anybody.
    """
    try:
        image = _header(data)
        if image.format in ("JPEG", "MPO") and _turn(image) == 1:
            return _jpeg(data)
        if image.format in _CONTAINERS and _turn(image) == 1:
            return _CONTAINERS[image.format](data)
        opened(data, ANY)
        return _encoded(data, "JPEG" if image.format in ("JPEG", "MPO") else "PNG")
    except Unfit as error:
        digest = hashlib.sha256(data).hexdigest()[:16]  # so that one can be told from another
        return refusal(error.reason, f"{error} (SHA-256 {digest}…)")
    except (IndexError, struct.error, ValueError) as error:
        return refusal("truncated", f"its parts do not add up: {_line(error)}")


def refusal(reason: str, said: str) -> bytes:
    """What is kept in place of a file that is not: reading it as a picture raises Unfit with this reason."""
    return _UNKEPT + f"{reason}: {said}\n".encode()


def png(pixels: Array) -> bytes:
    """uint8 [H, W, 3] as a PNG."""
    sink = io.BytesIO()
    _pillow().fromarray(pixels).save(sink, "PNG")
    return sink.getvalue()


@cache
def _pillow() -> Any:
    from PIL import Image

    # We hold headers against bounds of our own; Pillow's second, harder limit stays.
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    return Image


def _header(data: bytes) -> "Image":
    image = _pillow()
    try:
        return image.open(io.BytesIO(data), formats=FORMATS)
    except (image.DecompressionBombError, image.DecompressionBombWarning):
        raise Unfit("too_large", "far more pixels than anyone needs") from None
    except Exception as error:  # parsers raise what they like at bytes that lie
        if data[:2] == b"\xff\xd8" or data[:4] in (b"\x89PNG", b"GIF8", b"RIFF", b"II*\0", b"MM\0*"):
            raise Unfit("truncated", f"it begins like a picture, and breaks off: {_line(error)}") from None
        raise Unfit("not_a_picture", f"none of {', '.join(FORMATS)}: {_told(data)}") from None


def _told(data: bytes) -> str:
    if not data:
        return "the file is empty"
    head = data[:512]
    text = not any(byte < 9 for byte in head)
    return f"{len(data):,} bytes of {'text' if text else 'another kind'}"


def _line(error: Any) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return re.sub(r"<[^>]*>", "the file", text)[:120]  # Pillow names addresses in memory


def _animated(image: "Image") -> bool:
    try:
        return image.format != "MPO" and bool(getattr(image, "is_animated", False))
    except Exception:  # a broken second frame
        return True


def _turn(image: "Image") -> int:
    try:
        turn = image.getexif().get(_TURNED, 1)
    except Exception:  # EXIF of a stranger
        return 1
    return turn if turn in range(1, 9) else 1


def _upright(image: "Image") -> tuple[int, int]:
    width, height = image.size
    return (height, width) if _turn(image) > 4 else (width, height)


def _loaded(image: "Image", near: int = 0) -> "Image":
    try:
        turned = _TURNS.get(_turn(image))
        if near:
            image.draft(None, (near, near))
        image.load()
        return _rgb(image if turned is None else image.transpose(_pillow().Transpose(turned)))
    except Unfit:
        raise
    except Exception as error:  # decoders raise what they like at bytes that lie
        raise Unfit("truncated", f"cannot be decoded to its end: {_line(error)}") from None


def _rgb(image: "Image") -> "Image":
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64)
        if grey.min(initial=0) < 0 or grey.max(initial=0) > 65_535:
            raise Unfit("colours", "grey values beyond 16 bit; save it as RGB")
        wide = image.mode != "I" or grey.max(initial=0) > 255
        return _pillow().fromarray((grey >> 8 if wide else grey).astype(np.uint8)).convert("RGB")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        over = image.convert("RGBA")
        white = _pillow().new("RGBA", over.size, (255, 255, 255, 255))
        return _pillow().alpha_composite(white, over).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _encoded(data: bytes, form: str) -> bytes:
    image = decode(data, ANY)
    sink = io.BytesIO()
    fresh = _pillow().fromarray(np.asarray(image))  # nothing of the old file's
    fresh.save(sink, form, **({"quality": 95, "subsampling": 0} if form == "JPEG" else {}))
    return sink.getvalue()


def _jpeg(data: bytes) -> bytes:
    out, at = [data[:2]], 2
    while at + 4 <= len(data):
        while data[at : at + 2] == b"\xff\xff":  # fill bytes
            at += 1
        if data[at] != 0xFF:
            raise ValueError("no marker where one is due")
        marker = data[at + 1]
        if marker == 0xD9:
            break
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        if marker in _JPEG_KEPT or (marker == 0xE0 and data[at + 4 : at + 9] == b"JFIF\0"):
            out.append(data[at:end])
        at = end
        if marker == 0xDA:
            found = _SCAN_END.search(data, at)
            stop = found.start() if found else len(data)
            out.append(data[at:stop])
            at = stop
    whole = data[at : at + 2] == b"\xff\xd9"
    return b"".join(out) + (b"\xff\xd9" if whole else b"")


def _png(data: bytes) -> bytes:
    out, at = [data[:8]], 8
    while at + 8 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4])
        kind = data[at + 4 : at + 8]
        if kind in _PNG_KEPT:
            out.append(data[at:end])
        at = end
        if kind == b"IEND":
            break
    return b"".join(out)


def _webp(data: bytes) -> bytes:
    out, at = [], 12
    while at + 8 <= len(data):
        kind, end = data[at : at + 4], at + 8 + int.from_bytes(data[at + 4 : at + 8], "little")
        chunk = data[at : end + end % 2]
        if kind == b"VP8X":  # no colour profile, EXIF, XMP follow any more
            chunk = chunk[:8] + bytes([chunk[8] & ~0b00101100]) + chunk[9:]
        if kind in _WEBP_KEPT:
            out.append(chunk)
        at = end + end % 2
    body = b"".join(out)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _gif(data: bytes) -> bytes:
    def colours(flags: int) -> int:
        return 3 << ((flags & 7) + 1) if flags & 0x80 else 0

    def blocks(at: int) -> int:
        while data[at]:
            at += data[at] + 1
        return at + 1

    at = 13 + colours(data[10])
    out = [data[:at]]
    while at < len(data) and data[at] != 0x3B:
        if data[at] == 0x21:
            end = blocks(at + 2)
            kept = data[at + 1] == 0xF9
        elif data[at] == 0x2C:
            end, kept = blocks(at + 11 + colours(data[at + 9])), True
        else:
            raise ValueError("no block where one is due")
        out += [data[at:end]] if kept else []
        at = end
    return b"".join(out) + b";"


_CONTAINERS = {"PNG": _png, "WEBP": _webp, "GIF": _gif}
