"""Pictures and messages, asked of a real server over HTTP in every form it takes, good and bad."""

import base64
import io
import json
import re
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import posted
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from served import Answer, Client, Place, Server, eventually, serving

from pipelines.release import bundle
from pipelines.serve import keys

COLOUR, PLACE, ODD, JAM = "image_classify", "image_locate", "text_classify", "text_tag"
RED = posted.photo(80, 40, (255, 0, 0), "PNG")
TEXT = "車🚗 on the jam, ring jam"


def release(place: Place, task: str, factor: float = 1.0, **told: Any) -> str:
    folder = place.root / "made" / f"{task}-{factor}"
    bundle.write(folder, posted.contents(*task.split("_"), factor, **told))
    return place.store.put(task, folder)


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Place, Server]]:
    """One replica with a series and four tasks of pictures and messages."""
    place = Place(tmp_path_factory.mktemp("items"))
    place.point(place.release())
    for task in (COLOUR, PLACE, ODD, JAM):
        digest = release(place, task)
        place.point(digest, task, versions={digest: "7"})
    with serving(place) as server:
        eventually(lambda: len(server.client().get("/readyz").json["tasks"]) == 5)
        yield place, server


@pytest.fixture
def ask(town: tuple[Place, Server]) -> Client:
    return town[1].client()


def form(*parts: tuple[str, bytes], filename: bool = True, boundary: str = "x42") -> bytes:
    name = '; filename="frame.jpg"' if filename else ""
    out = b""
    for field, data in parts:
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"{name}\r\nContent-Type: image/jpeg\r\n\r\n'
        )
        out += head.encode() + data + b"\r\n"
    return out + f"--{boundary}--\r\n".encode()


def as_form(ask: Client, *parts: tuple[str, bytes], task: str = COLOUR, **told: Any) -> Answer:
    return ask.predict(form(*parts, **told), task, content_type="multipart/form-data; boundary=x42")


def test_one_picture_in_every_form_has_one_answer(ask: Client, town: tuple[Place, Server]) -> None:
    text = base64.b64encode(RED).decode()
    answers = [
        ask.predict(RED, COLOUR, content_type="image/png"),
        ask.predict(RED, COLOUR, content_type="application/octet-stream"),
        as_form(ask, ("image", RED)),
        as_form(ask, ("whatever", RED)),
        as_form(ask, ("image", RED), filename=False),
        ask.predict({"image": text}, COLOUR),
        ask.predict({"image": f"data:image/png;base64,{text}"}, COLOUR),
    ]
    for answer in answers:
        assert answer.status == 200, answer.body
        told = answer.json
        assert told["answers"] == answers[0].json["answers"]
        assert told["answers"][0]["label"] == "red"
        assert (told["task"], told["version"]) == (COLOUR, "7")
        assert told["digest"] == town[0].store.pointer(COLOUR).stable  # type: ignore[union-attr]
        assert told["request_id"] == answer.headers["x-request-id"]
        assert told["issued"].endswith("Z")


def test_several_at_once(ask: Client) -> None:
    blue = posted.photo(9, 30, (0, 0, 255))
    many = ask.predict({"images": [base64.b64encode(d).decode() for d in (RED, blue, RED)]}, COLOUR).json["answers"]
    assert [a["label"] for a in many] == ["red", "blue", "red"]
    assert [a["label"] for a in as_form(ask, ("a", blue), ("b", RED)).json["answers"]] == ["blue", "red"]
    assert [a["label"] for a in ask.predict({"texts": ["jam", "jam on"]}, ODD).json["answers"]] == ["odd", "even"]


def test_boxes_are_in_pixels_of_the_sent_picture(ask: Client) -> None:
    told = as_form(ask, ("image", RED), task=PLACE).json["answers"][0]
    assert (told["width"], told["height"]) == (80, 40)
    assert [told["boxes"][0][k] for k in ("label", "x", "y", "width", "height")] == ["car", 0, 0, 40, 40]
    sink = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # as one sees it, it stands upright
    Image.open(io.BytesIO(RED)).save(sink, "JPEG", exif=exif)
    turned = ask.predict(sink.getvalue(), PLACE, content_type="image/jpeg").json["answers"][0]
    assert (turned["width"], turned["height"]) == (40, 80)


def test_spans_are_in_code_points(ask: Client) -> None:
    for answer in (
        ask.predict({"text": TEXT}, JAM),
        ask.predict(TEXT.encode(), JAM, content_type="text/plain; charset=utf-8"),
    ):
        spans = answer.json["answers"][0]["spans"]
        assert [TEXT[s["start"] : s["end"]] for s in spans] == ["jam", "jam"]
        assert all(s["label"] == "jam" and 0.5 < s["score"] <= 1 for s in spans)
    assert ask.predict({"text": "free road"}, JAM).json["answers"] == [{"spans": []}]


def v2(ask: Client, task: str, name: str, data: list[str], **more: Any) -> Answer:
    return ask.infer(
        {"inputs": [{"name": name, "datatype": "BYTES", "shape": [len(data)], "data": data}], **more}, task
    )


def test_v2_takes_bytes_as_json_and_as_they_are(ask: Client) -> None:
    told = v2(ask, COLOUR, "image", [base64.b64encode(RED).decode()], id="mine").json
    out = {o["name"]: o for o in told["outputs"]}
    assert (told["id"], told["parameters"]["labels"], out["label"]["data"]) == ("mine", "red,green,blue", ["red"])
    assert (out["probabilities"]["shape"], out["probabilities"]["datatype"]) == ([1, 3], "FP32")
    raw = b"".join(struct.pack("<I", len(d)) + d for d in (RED, RED))
    about = {"name": "image", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [about], "parameters": {"binary_data_output": True}}).encode()
    answer = ask.infer(head + raw, PLACE, inference_header_content_length=str(len(head)))
    size = int(answer.headers["inference-header-content-length"])
    out = {o["name"]: o for o in json.loads(answer.body[:size])["outputs"]}
    assert (out["box"]["shape"], out["item"]["shape"]) == ([2, 4], [2])
    assert answer.body.endswith(struct.pack("<8f", 0, 0, 40, 40, 0, 0, 40, 40))
    spans = {o["name"]: o["data"] for o in v2(ask, JAM, "text", ["a jam", "b", "jam"]).json["outputs"]}
    assert (spans["item"], spans["span"], spans["label"]) == ([0, 2], [2, 5, 0, 3], ["jam", "jam"])
    assert v2(ask, JAM, "text", ["b"]).json["outputs"][3]["shape"] == [0, 2]


def test_v2_metadata(ask: Client) -> None:
    told = ask.get(f"/v2/models/{PLACE}").json
    assert told["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
    assert [o["name"] for o in told["outputs"]] == ["item", "label", "score", "box"]
    assert told["parameters"] == {"labels": "car"}


def saved(image: Any, form: str, **told: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, form, **told)
    return sink.getvalue()


def bomb(side: int = 60_000) -> bytes:
    """A PNG whose header says it is large, and whose pixels are not there."""
    data = bytearray(posted.photo(16, 16, form="PNG"))
    data[16:24] = struct.pack(">II", side, side)
    import zlib

    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


FRAMES = [Image.new("RGB", (32, 32), c) for c in ("red", "green", "blue")]
BAD: dict[str, tuple[bytes, str]] = {
    "truncated": (posted.photo(400, 300)[:-900], "truncated"),
    "of one pixel": (posted.photo(1, 1), "too_small"),
    "of 100 megapixels": (saved(Image.new("1", (10_000, 10_000)), "PNG"), "too_large"),
    "a bomb": (bomb(), "too_large"),
    "a flood": (saved(Image.new("1", (13_000, 100)), "PNG"), "too_large"),
    "an animation": (saved(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]), "animated"),
    "a text": (b"this is no picture, whatever its name says", "not_a_picture"),
    "nothing": (b"", "not_a_picture"),
    "a strip": (posted.photo(400, 10), "aspect"),
    "zeroes": (b"\0" * 5000, "not_a_picture"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_picture_is_refused_with_its_reason(ask: Client, name: str) -> None:
    data, reason = BAD[name]
    for answer in (
        ask.predict(data, COLOUR, content_type="image/jpeg"),
        as_form(ask, ("image", data), task=PLACE),
        ask.predict({"image": base64.b64encode(data).decode()}, COLOUR),
        v2(ask, COLOUR, "image", [base64.b64encode(data).decode()]),
    ):
        assert (answer.status, f"picture: {reason}" in answer.error) == (422, True), answer.body
    assert ask.get("/livez").status == 200


ODD_ONES: dict[str, bytes] = {
    "CMYK": saved(Image.new("CMYK", (40, 40), (0, 255, 255, 0)), "JPEG"),
    "16 bit": saved(Image.new("I;16", (40, 40), 60_000), "PNG"),
    "a palette": saved(Image.new("RGB", (40, 40), "red").convert("P"), "GIF"),
    "transparent": saved(Image.new("RGBA", (40, 40), (255, 0, 0, 255)), "WEBP", lossless=True),
    "TIFF": saved(Image.new("RGB", (40, 40), "red"), "TIFF"),
}


@pytest.mark.parametrize("name", ODD_ONES)
def test_an_odd_picture_is_converted(ask: Client, name: str) -> None:
    answer = ask.predict(ODD_ONES[name], COLOUR, content_type="image/*")
    assert answer.status == 200, answer.body
    assert name == "16 bit" or answer.json["answers"][0]["label"] == "red"


MESSAGES: dict[str, tuple[Any, dict[str, str], int, str]] = {
    "empty": ({"text": ""}, {}, 422, "text: empty"),
    "blank": ({"text": " \n"}, {}, 422, "text: empty"),
    "one of several": ({"texts": ["jam", ""]}, {}, 422, "text 1: empty"),
    "none": ({"texts": []}, {}, 422, "nothing to answer"),
    "too many": ({"texts": ["jam"] * 33}, {}, 413, "at most 32"),
    "of 1 MB": ({"text": "x" * (1 << 20)}, {}, 413, "1,048,576 characters; at most 20,000"),
    "of 1 MB, plain": (b"y" * (1 << 20), {"content_type": "text/plain"}, 413, "at most 20,000"),
    "too long together": ({"texts": ["x" * 19_000] * 5}, {}, 413, "95,000 characters together"),
    "not UTF-8": (b"jam \xff\xfe", {"content_type": "text/plain"}, 422, "not UTF-8: byte 4"),
    "not UTF-8 in JSON": (b'{"text": "jam \xff"}', {}, 400, "not JSON"),
    "a number": ({"text": 7}, {}, 422, "expected a string"),
    "no list": ({"texts": "jam"}, {}, 422, "expected a list of strings"),
    "both": ({"text": "a", "texts": ["b"]}, {}, 422, 'expected {"text"'),
    "rows": ({"rows": []}, {}, 422, "'rows' is not known here"),
    "a picture": ({"image": "aGk="}, {}, 422, "'image' is not known here"),
    "a form": (form(("text", b"jam")), {"content_type": "multipart/form-data; boundary=x42"}, 415, "text/plain"),
    "no JSON": (b"jam", {}, 400, "not JSON"),
    "no object": (b"[]", {}, 400, "not an object"),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_a_bad_message_is_refused(ask: Client, name: str) -> None:
    body, headers, status, said = MESSAGES[name]
    answer = ask.predict(body, JAM, **headers)
    assert (answer.status, said in answer.error) == (status, True), answer.body


FORM = "multipart/form-data; boundary=x42"
FORMS: dict[str, tuple[Any, str, int, str]] = {
    "not base64": ({"image": "%%%"}, "application/json", 422, "picture 0: not base64"),
    "no form": (b"x", FORM, 400, "ends before its last boundary"),
    "cut off": (form(("image", RED))[:-8], FORM, 400, "ends before its last boundary"),
    "another boundary": (form(("image", RED), boundary="y"), FORM, 400, "ends before its last boundary"),
    "no boundary": (form(("image", RED)), "multipart/form-data", 400, "without a boundary"),
    "no parts": (b"--x42--\r\n", FORM, 422, "nothing to answer"),
    "a nameless part": (b"--x42\r\n\r\nhi\r\n--x42--", FORM, 400, "has no name"),
    "a plain field": (form(("task", b"7"), filename=False), FORM, 422, "field 'task' is no file"),
    "a text": (b"hello", "text/plain", 415, "send a picture"),
    "curl's own type": (RED, "application/x-www-form-urlencoded", 415, "curl -F image=@frame.jpg"[5:]),
    "a message": ({"text": "jam"}, "application/json", 422, "'text' is not known here"),
    "too many": ({"images": ["aGk="] * 33}, "application/json", 413, "at most 32"),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_bad_form_is_refused(ask: Client, name: str) -> None:
    body, kind, status, said = FORMS[name]
    answer = ask.predict(body, COLOUR, content_type=kind)
    assert (answer.status, said in answer.error) == (status, True), answer.body


V2: dict[str, tuple[Any, str]] = {
    "nothing": ({}, "expected one tensor"),
    "two": ([{}, {}], "expected one tensor"),
    "another name": ([{"name": "pixels", "datatype": "BYTES", "shape": [1], "data": [""]}], "named text"),
    "another type": ([{"name": "text", "datatype": "FP32", "shape": [1], "data": [1.0]}], "datatype BYTES"),
    "numbers": ([{"name": "text", "datatype": "BYTES", "shape": [1], "data": [1]}], "list of strings"),
    "another shape": ([{"name": "text", "datatype": "BYTES", "shape": [2], "data": ["a"]}], "not shape [2]"),
    "no data": ([{"name": "text", "datatype": "BYTES", "shape": [0], "data": []}], "nothing to answer"),
}


@pytest.mark.parametrize("name", V2)
def test_a_bad_v2_request_is_refused(ask: Client, name: str) -> None:
    inputs, said = V2[name]
    answer = ask.infer({"inputs": inputs} if inputs else {}, JAM)
    assert (answer.status, said in answer.error) == (422, True), answer.body


def test_bytes_that_do_not_add_up_in_v2(ask: Client) -> None:
    for raw, size, said in (
        (b"\x05\0\0\0jam", 7, "lengths"),
        (b"\3\0\0\0jam", 9, "bytes follow"),
        (b"\1\0\0\0\xff", 5, "UTF-8"),
    ):
        about = {"name": "text", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": size}}
        head = json.dumps({"inputs": [about]}).encode()
        answer = ask.infer(head + raw, JAM, inference_header_content_length=str(len(head)))
        assert (answer.status, said in answer.error) == (422, True), answer.body


def test_what_it_says_of_itself(ask: Client) -> None:
    told = {t["task"]: t for t in ask.get("/v1/tasks").json["tasks"]}
    assert [told[t]["modality"] for t in (COLOUR, JAM, "air_quality")] == ["image", "text", "series"]
    about = ask.get(f"/v1/tasks/{COLOUR}").json
    assert about["names"] == list(posted.COLOURS)
    assert about["most"] == {"items": 32, "pixels": 40_000_000, "least_side": 8, "bytes": 32 << 20}
    assert ask.get(f"/v1/tasks/{ODD}").json["most"] == {"items": 32, "characters": 20_000}
    forecast = ask.get(f"/v1/tasks/{JAM}/forecast")
    assert (forecast.status, "keeps none of it" in forecast.error) == (404, True)
    metrics = ask.get("/metrics").body.decode()
    assert re.search(rf'cityloop_requests_total{{code="200",route="predict",task="{COLOUR}"}}', metrics)


def test_small_files_with_many_pixels_are_not_decoded_one_after_another(ask: Client) -> None:
    large = base64.b64encode(saved(Image.new("1", (6_000, 6_000)), "PNG")).decode()
    assert ask.predict({"images": [large]}, COLOUR).status == 200
    answer = ask.predict({"images": [large] * 30}, COLOUR)
    assert (answer.status, "the first 2 pictures have 72,000,000 pixels" in answer.error) == (413, True)


def test_many_at_a_time_have_each_their_own_answer(ask: Client, town: tuple[Place, Server]) -> None:
    """A bad one among those that share a run spoils none of the others."""
    colours = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
    sent = [(name, posted.photo(50, 50, colour)) for name, colour in colours.items()] * 12
    sent[7] = ("", b"no picture")

    def one(pair: tuple[str, bytes]) -> bool:
        answer = town[1].client().predict(pair[1], COLOUR, content_type="image/jpeg")
        return answer.status == 422 if not pair[0] else answer.json["answers"][0]["label"] == pair[0]

    with ThreadPoolExecutor(12) as many:
        assert all(many.map(one, sent))


def logged(place: Place, task: str) -> list[dict[str, Any]]:
    found = [place.store.objects.get(key) for key in place.store.objects.find(f"predictions/{task}")]
    return pa.concat_tables(pq.read_table(pa.BufferReader(data)) for data in found).to_pylist() if found else []


def test_the_log_keeps_the_answer_and_a_hash_of_what_was_asked(place: Place) -> None:
    import hashlib

    for task in (COLOUR, JAM):
        place.point(release(place, task), task)
    secret = "call 13800138000 about the jam"
    with serving(place) as server:
        ask = server.client()
        eventually(lambda: len(ask.get("/readyz").json["tasks"]) == 2)
        ask.predict(RED, COLOUR, content_type="image/png", x_request_id="one")
        ask.predict({"texts": [secret, "jam"]}, JAM, x_request_id="two")
        ask.predict({"text": ""}, JAM)
    picture, texts = logged(place, COLOUR), logged(place, JAM)
    assert [(r["request_id"], r["sha256"]) for r in picture] == [("one", hashlib.sha256(RED).hexdigest())]
    assert json.loads(picture[0]["answer"])["label"] == "red"
    assert [r["sha256"] for r in texts] == [hashlib.sha256(t.encode()).hexdigest() for t in (secret, "jam")]
    assert {(r["role"], r["task"], r["digest"]) for r in texts} == {("stable", JAM, place.store.pointer(JAM).stable)}  # type: ignore[union-attr]
    for path in Path(place.store.where).rglob("*"):
        assert not path.is_file() or b"13800138000" not in path.read_bytes(), path


def beat(place: Place, task: str) -> dict[str, Any]:
    """What the server last said of a task; its first beat may be older than the task is there."""
    found: dict[str, Any] = place.store.beats().get("toy", {}).get("tasks", {}).get(task, {"counts": {}, "error": None})
    return found


@pytest.mark.parametrize(("task", "body", "differ"), [
    (COLOUR, {"image": base64.b64encode(posted.photo(50, 50, (255, 0, 0))).decode()}, 0.0),
    (PLACE, {"image": base64.b64encode(posted.photo(50, 50, (150, 0, 0), "PNG")).decode()}, 1.0),
    (JAM, {"text": "jam and road"}, 1.0),
])  # fmt: skip
def test_a_canary_and_the_stable_are_compared(place: Place, task: str, body: Any, differ: float) -> None:
    """Another factor: the same colour; a box whose score no longer counts; another word."""
    one, two = release(place, task), release(place, task, 0.8)
    place.point(one, task, canary=two, share=0.5)
    with serving(place) as server:
        ask = server.client()
        by = [ask.predict(body, task).json["digest"] for _ in range(24)]
        assert set(by) == {one, two}
        told = eventually(lambda: (c := beat(place, task)["counts"].get(two, {})).get("compared", 0) >= 12 and c)
        assert told["disagreement"] == pytest.approx(differ * told["compared"])
        assert told["errors"] == beat(place, task)["counts"][one]["errors"] == 0
        assert sum(told["latency_ms"]["counts"]) == told["requests"]
        place.point(two, task)  # swapped while it answers
        eventually(lambda: ask.predict(body, task).json["digest"] == two)


def test_a_release_of_another_modality_on_trial_costs_nobody_an_answer(place: Place) -> None:
    one = release(place, ODD)
    folder = place.root / "made" / "other"
    bundle.write(folder, posted.contents("image", "classify"))
    two = place.store.put(ODD, folder)
    place.point(one, ODD, canary=two, share=0.5)
    with serving(place) as server:
        ask = server.client()
        assert {ask.predict({"text": "jam"}, ODD).status for _ in range(12)} == {200}
        eventually(lambda: beat(place, ODD)["counts"].get(two, {}).get("errors", 0) > 0)


def test_a_release_whose_answers_are_off_is_refused(place: Place) -> None:
    one = release(place, COLOUR)
    place.point(one, COLOUR)
    with serving(place) as server:
        folder = place.root / "made" / "off"
        wrong = {**posted.contents(), "model.onnx": posted.graph(COLOUR, 2.0)}
        bundle.write(folder, wrong)
        two = place.store.put(COLOUR, folder)
        place.point(two, COLOUR)
        told = eventually(lambda: (t := beat(place, COLOUR))["error"] and t)
        assert (told["refused"], "differ by" in told["error"]) == (two, True)
        assert server.client().predict(RED, COLOUR, content_type="image/png").json["digest"] == one


def test_keys_and_rates_hold(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CITYLOOP_STATE", str(place.root / "state"))
    key = keys.add("ada", (COLOUR,))
    for task in (COLOUR, JAM):
        place.point(release(place, task), task)
    with serving(place, no_auth=False, rate=0.01, burst=3) as server:

        def post(task: str, **headers: str) -> int:
            return server.client().predict(RED, task, content_type="image/png", **headers).status

        assert post(COLOUR) == 401
        assert post(JAM, x_api_key=key) == 403
        assert [post(COLOUR, x_api_key=key) for _ in range(4)] == [200, 200, 429, 429]


def test_a_picture_is_decoded_off_the_event_loop(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.core import pictures

    where, real = set(), pictures.square

    def square(*args: Any) -> Any:
        where.add(threading.current_thread().name)
        return real(*args)

    place.point(release(place, COLOUR), COLOUR)
    with serving(place) as server:
        monkeypatch.setattr(pictures, "square", square)
        assert server.client().predict(RED, COLOUR, content_type="image/png").status == 200
    assert where
    assert all(name.startswith("infer-") for name in where)
