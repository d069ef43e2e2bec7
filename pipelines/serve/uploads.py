"""Pictures and messages as a department sends them, and the answer as JSON.

pictures  the file itself (image/…), a form with files (multipart/form-data), {"image": "<base64>"} or {"images": […]}
messages  text/plain, {"text": "…"} or {"texts": […]}
"""

import base64
import binascii
import re
from collections.abc import Iterator
from typing import Any

from pipelines.serve import numbers
from pipelines.serve.items import NOUN, Found, Item
from pipelines.serve.observations import iso
from pipelines.serve.replies import Refusal, Reply
from pipelines.serve.settings import Settings

JSON, FORM, PLAIN, RAW = b"application/json", b"multipart/form-data", b"text/plain", b"application/octet-stream"
FIELDS = {"image": ("image", "images"), "text": ("text", "texts")}
TOGETHER = 4
"""Texts of a request may be so many times as long, together, as one may."""
_BOUNDARY = re.compile(rb';\s*boundary=(?:"([^"\r\n]{1,200})"|([^\s";,]{1,200}))', re.IGNORECASE)
_NAMED = re.compile(rb'(?:^|\r\n)content-disposition:\s*form-data\s*;[^\r\n]*?\bname="([^"\r\n]*)"', re.IGNORECASE)


def accepted(modality: str, kind: bytes) -> bool:
    """Whether a body of this media type can be parsed."""
    if modality == "image":
        return kind in (JSON, FORM, RAW) or kind.startswith(b"image/")
    return kind in (JSON, PLAIN)


def parse(body: bytes, content_type: bytes, modality: str, settings: Settings) -> tuple[Item, ...]:
    """The items of a body. Raises Refusal 400, 413 or 422."""
    kind = content_type.partition(b";")[0].strip().lower()
    if kind == JSON:
        found: list[Item] = list(_of_json(numbers.loads(body), modality))
    elif kind == FORM:
        found = list(_of_form(body, content_type))
    else:
        found = [body if modality == "image" else _utf8(body)]
    return bounded(found, settings)


def bounded(items: list[Item], settings: Settings) -> tuple[Item, ...]:
    """Raises Refusal 413 or 422 for too many, and for a text that is too long."""
    if not items:
        raise Refusal(422, "nothing to answer: send one picture or text at least")
    if len(items) > settings.items:
        raise Refusal(413, f"{len(items):,} at once; at most {settings.items} a request: send parts")
    for i, item in enumerate(items):
        if isinstance(item, str) and len(item) > settings.characters:
            raise Refusal(413, f"text {i} has {len(item):,} characters; at most {settings.characters:,} are read")
    if (total := sum(len(item) for item in items if isinstance(item, str))) > TOGETHER * settings.characters:
        raise Refusal(413, f"the texts have {total:,} characters together: send parts")
    return tuple(items)


def picture(text: str, which: str) -> bytes:
    """From base64, perhaps as a data: URL. Raises Refusal 422."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refusal(422, f"{which}: not base64 ({error}); encode the picture's file as it is") from None


def encode(found: Found) -> Reply:
    told = {
        "request_id": found.request_id,
        "task": found.task,
        "version": found.version,
        "digest": found.digest,
        "issued": iso(found.issued),
        "answers": found.answers,
    }
    return Reply(numbers.dumps(told))


def _of_json(data: dict[str, Any], modality: str) -> Iterator[Item]:
    one, many = FIELDS[modality]
    if len(data) != 1 or not data.keys() <= {one, many}:
        wrong = next((name for name in data if name not in (one, many)), None)
        told = f"{wrong!r} is not known here; " if wrong is not None else ""
        raise Refusal(422, f'{told}expected {{"{one}": "…"}} or {{"{many}": ["…"]}}')
    given = data[many] if many in data else [data[one]]
    if not isinstance(given, list) or not all(isinstance(item, str) for item in given):
        raise Refusal(422, f"{many}: expected a list of strings" if many in data else f"{one}: expected a string")
    for i, item in enumerate(given):
        yield item if modality == "text" else picture(item, f"{NOUN[modality]} {i}")


def _of_form(body: bytes, content_type: bytes) -> Iterator[bytes]:
    """The files of a form (RFC 7578), whatever their fields are called, and of fields without a file those for us."""
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise Refusal(400, "multipart/form-data without a boundary; let the client make the header")
    line = b"\r\n--" + (found[1] or found[2])
    parts = (b"\r\n" + body).split(line)
    if len(parts) < 2 or not parts[-1].startswith(b"--"):
        raise Refusal(400, "the form ends before its last boundary; it was cut off, or the header names another")
    for part in parts[1:-1]:
        head, blank, content = part.partition(b"\r\n\r\n")
        named = _NAMED.search(head)
        if not blank or named is None:
            raise Refusal(400, "a part of the form has no name; send files as curl -F image=@frame.jpg does")
        if b"filename" not in head.lower() and named[1] not in (b"image", b"images"):
            raise Refusal(
                422, f"the form's field {named[1].decode(errors='replace')!r} is no file; send pictures alone"
            )
        yield content


def _utf8(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise Refusal(422, f"the text is not UTF-8: byte {error.start} begins no character") from None
