"""The routes that infer: a body in, a model asked, a body out, and nothing in between that could be left out."""

from collections.abc import Callable
from functools import partial
from typing import Any

from pipelines.serve import observations, uploads, wire, wire_items
from pipelines.serve.answer import Windows
from pipelines.serve.answering import Desk
from pipelines.serve.edge import Call, Handler
from pipelines.serve.items import Item, Sent
from pipelines.serve.limits import Bodies
from pipelines.serve.model import Loaded
from pipelines.serve.replies import Refusal, Reply

KINDS = (b"application/json", b"application/octet-stream")
SEND = {
    "series": "send application/json (curl: -H 'content-type: application/json'), or V2 tensors",
    "image": "send a picture (curl: -F image=@frame.jpg), application/json, or V2 tensors",
    "text": "send application/json (curl: -H 'content-type: application/json'), text/plain, or V2 tensors",
}


class Hot:
    """`hot(call)` is the handler of a path that infers, None for any other."""

    def __init__(self, desk: Desk, bodies: Bodies) -> None:
        self._desk, self._bodies = desk, bodies
        self._settings = desk.settings

    def __call__(self, call: Call) -> Handler | None:
        last = call.parts[-1]
        if last == "predict" and len(call.parts) == 5 and call.parts[1] == "v1" and call.task:
            return self._posted(call, self.predict)
        if last == "infer" and call.parts[1] == "v2" and call.task and call.parts[4:-1:2] in ([], ["versions"]):
            return self._posted(call, self.infer)
        return None

    def _posted(self, call: Call, handler: Handler) -> Handler:
        call.route = call.parts[-1]
        if call.scope["method"] != "POST":
            raise Refusal(405, f"{call.route} takes a POST; see /docs", [(b"allow", b"POST")])
        return handler

    async def predict(self, call: Call) -> Reply:
        modality = self._desk.serving(call.task).modality
        if modality == "series":
            asked = observations.parse(await self._body(call, KINDS.__contains__), self._settings.sensors)
            answer = await self._answer(call, partial(Windows.of, ask_of=asked.ask, readings=self._settings.readings))
            return observations.encode(answer, asked)
        body = await self._body(call, partial(uploads.accepted, modality))
        items = uploads.parse(body, call.headers.get(b"content-type", uploads.JSON), modality, self._settings)
        return uploads.encode(await self._answer(call, self._sent(items)))

    async def infer(self, call: Call) -> Reply:
        modality = self._desk.serving(call.task).modality
        version = call.parts[5] if len(call.parts) == 7 else None
        body, header = await self._body(call, KINDS.__contains__), call.headers.get(wire.HEADER)
        if modality == "series":
            asked = wire.parse(body, header)
            ask = partial(asked.ask, sensors=self._settings.sensors)
            work = partial(Windows.of, ask_of=ask, readings=self._settings.readings)
            return wire.encode(await self._answer(call, work, version), asked)
        sent = wire_items.parse(body, header, modality, self._settings)
        return wire_items.encode(await self._answer(call, self._sent(sent.items), version), sent)

    def _sent(self, items: tuple[Item, ...]) -> Callable[[Loaded], Sent]:
        return partial(Sent.of, items=items, full=self._settings.batch_cells)

    async def _answer(self, call: Call, work_of: Callable[[Loaded], Any], version: str | None = None) -> Any:
        answer = await self._desk.answer(call.task, call.id, work_of, version)
        call.digest = answer.digest
        return answer

    async def _body(self, call: Call, accepts: Callable[[bytes], bool]) -> bytes:
        """Raises Refusal 415 for a media type that is not taken here, and what `Bodies.read` raises."""
        told = call.headers.get(b"content-type", KINDS[0]).partition(b";")[0].strip().lower()
        if not accepts(told):
            raise Refusal(415, SEND[self._desk.serving(call.task).modality])
        if call.headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise Refusal(415, "send the body as it is, without content-encoding")
        body = await self._bodies.read(call.headers, call.receive)
        call.held += len(body)
        return body
