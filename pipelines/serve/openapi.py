"""The OpenAPI document: what FastAPI knows of its own routes, and by hand what the others take and give."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from pipelines.serve.edge import OPEN
from pipelines.serve.schemas import SAID

JsonObject = dict[str, Any]
_NUMBER = {"type": ["number", "null"]}
_TIME = {"type": "string", "description": "ISO; UTC where it names no zone.", "examples": ["2025-04-01T08:00:00Z"]}
_SENSOR, _KIND = {"type": "string"}, {"type": "string", "description": "Needed where the task answers several."}
_UNKNOWN = {
    "enum": ["answer", "refuse"],
    "default": "answer",
    "description": "Sensors the model never saw: answer them where it can, and say so in `unknown`; or 422.",
}
_FORM = {"format": {"enum": ["rows", "columns"], "default": "rows"}, "sensors_unknown": _UNKNOWN}
ROWS = {
    "type": "object",
    "required": ["rows"],
    "additionalProperties": False,
    "properties": {
        "rows": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["time", "sensor", "value"],
                "properties": {"time": _TIME, "sensor": _SENSOR, "kind": _KIND, "value": _NUMBER},
            },
        },
        **_FORM,
    },
}
ARRAYS = {
    "type": "object",
    "required": ["sensors", "values"],
    "additionalProperties": False,
    "oneOf": [{"required": ["start"]}, {"required": ["times"]}],
    "properties": {
        "start": _TIME,
        "times": {"type": "array", "items": _TIME},
        "sensors": {"type": "array", "minItems": 1, "uniqueItems": True, "items": _SENSOR},
        "kind": {"anyOf": [_KIND, {"type": "array", "items": _KIND}]},
        "values": {"type": "array", "minItems": 1, "items": {"type": "array", "minItems": 1, "items": _NUMBER}},
        **_FORM,
    },
}
ANSWER = {
    "type": "object",
    "required": ["request_id", "task", "version", "digest", "issued", "units"],
    "properties": {
        "request_id": {"type": "string"},
        "task": {"type": "string"},
        "version": {"type": ["string", "null"]},
        "digest": {"type": "string"},
        "issued": _TIME,
        "units": {"type": "object", "additionalProperties": {"type": "string"}},
        "unknown": {"type": "array", "items": {"type": "string"}},
        "rows": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["time", "sensor", "kind"],
                "properties": {"time": _TIME, "sensor": _SENSOR, "kind": _SENSOR},
                "additionalProperties": {"type": ["number", "string", "boolean", "null"]},
            },
        },
        "columns": {"type": "object", "additionalProperties": {"type": "array"}},
    },
}
_SHARE = {"type": "number", "minimum": 0, "maximum": 1}
_PIXELS, _PLACE = {"type": "number", "minimum": 0}, {"type": "integer", "minimum": 0}
PICTURE = {"type": "string", "contentEncoding": "base64", "description": "The file of a picture."}


def _given(one: str, item: JsonObject) -> JsonObject:
    """One item under its name, or several under its plural."""
    many = {"type": "array", "minItems": 1, "maxItems": 32, "items": item}
    each = [{name: shape} for name, shape in ((one, item), (f"{one}s", many))]
    return {
        "oneOf": [
            {"type": "object", "required": [*props], "additionalProperties": False, "properties": props}
            for props in each
        ]
    }


def _found(**properties: JsonObject) -> JsonObject:
    return {"type": "object", "required": [*properties], "properties": properties}


def _list(**properties: JsonObject) -> JsonObject:
    return {"type": "array", "items": _found(**properties)}


IMAGES, TEXTS = _given("image", PICTURE), _given("text", {"type": "string", "minLength": 1, "maxLength": 20_000})
FORM = {
    "type": "object",
    "properties": {"image": {"type": "string", "format": "binary", "description": "One file, or several."}},
}
ANSWERS = {
    "type": "object",
    "required": ["request_id", "task", "version", "digest", "issued", "answers"],
    "properties": {
        **{name: {"type": "string"} for name in ("request_id", "task", "digest")},
        "version": {"type": ["string", "null"]},
        "issued": _TIME,
        "answers": {
            "type": "array",
            "description": "One for each picture or message. Boxes are in pixels of the picture as one sees it, spans "
            "half-open in code points.",
            "items": {
                "anyOf": [
                    _found(label={"type": "string"}, probabilities={"type": "object", "additionalProperties": _SHARE}),
                    _found(
                        width=_PLACE, height=_PLACE,
                        boxes=_list(
                            label={"type": "string"}, score=_SHARE, x=_PIXELS, y=_PIXELS, width=_PIXELS, height=_PIXELS
                        ),
                    ),
                    _found(spans=_list(label={"type": "string"}, score=_SHARE, start=_PLACE, end=_PLACE)),
                ]
            },
        },
    },
}  # fmt: skip


def _tensor(name: str, datatype: str, shape: JsonObject, data: JsonObject) -> JsonObject:
    properties = {"name": {"const": name}, "datatype": {"const": datatype}, "shape": shape, "data": data}
    return {
        "type": "object",
        "required": ["name", "datatype", "shape"],
        "properties": {**properties, "parameters": {"type": "object"}},
    }


def _shape(rank: int) -> JsonObject:
    return {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": rank, "maxItems": rank}


_WHOLE = {"type": "array", "items": {"type": "integer"}}
_WORDS = {"type": "array", "items": {"type": "string"}}
INFER = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "parameters": {"type": "object"},
        "inputs": {
            "type": "array",
            "minItems": 1,
            "items": {
                "anyOf": [
                    _tensor("values", "FP32", _shape(3), {"type": "array", "items": {}}),
                    _tensor("start", "INT64", _shape(1), _WHOLE),
                    _tensor("end", "INT64", _shape(1), _WHOLE),
                    _tensor("sensor", "BYTES", _shape(1), _WORDS),
                    _tensor("kind", "BYTES", _shape(1), _WORDS),
                    _tensor("image", "BYTES", _shape(1), _WORDS),
                    _tensor("text", "BYTES", _shape(1), _WORDS),
                ]
            },
        },
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {"name": {"type": "string"}, "parameters": {"type": "object"}},
            },
        },
    },
}
INFERRED = {
    "type": "object",
    "required": ["model_name", "model_version", "id", "parameters", "outputs"],
    "properties": {
        "model_name": {"type": "string"},
        "model_version": {"type": "string", "description": "The digest."},
        "id": {"type": "string"},
        "parameters": {"type": "object"},
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "datatype", "shape"],
                "properties": {
                    "name": {"type": "string"},
                    "datatype": {"type": "string"},
                    "shape": _WHOLE,
                    "data": {"type": "array"},
                    "parameters": {"type": "object"},
                },
            },
        },
    },
}
_HOT_ERRORS = (400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503, 504)


def _ref(name: str) -> JsonObject:
    return {"$ref": f"#/components/schemas/{name}"}


def _post(summary: str, tag: str, path: list[str], take: JsonObject, give: JsonObject) -> JsonObject:
    refused = {"content": {"application/json": {"schema": _ref("Error")}}}
    return {
        "post": {
            "tags": [tag],
            "summary": summary,
            "operationId": "_".join([tag, *path]),
            "parameters": [
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in path
            ],
            "requestBody": {"required": True, "content": take},
            "responses": {
                "200": {"description": "The answer", "content": give},
                **{str(code): {"description": SAID[code], **refused} for code in _HOT_ERRORS},
            },
        }
    }


def _get(tag: str, summary: str, content: JsonObject, *codes: int) -> JsonObject:
    told = {"tags": [tag], "summary": summary, "operationId": summary.lower().replace(" ", "_")}
    refused = {"content": {"application/json": {"schema": _ref("Error")}}}
    refusals = {str(code): {"description": SAID[code], **refused} for code in codes}
    return {"get": {**told, "responses": {"200": {"description": "So it is", "content": content}, **refusals}}}


def _health() -> JsonObject:
    live: JsonObject = {"type": "object", "required": ["live"], "properties": {"live": {"const": True}}}
    tasks = {"type": "object", "additionalProperties": {"type": "boolean"}, "description": "Whether each can be asked."}
    ready = {"type": "object", "required": ["ready", "tasks"], "properties": {"ready": {"const": True}, "tasks": tasks}}
    lives, readies = ({"application/json": {"schema": schema}} for schema in (live, ready))
    return {
        "/livez": _get("health", "The process lives", lives),
        "/readyz": _get("health", "Some task can be asked", readies, 503),
        "/v2/health/live": _get("v2", "The server lives", lives),
        "/v2/health/ready": _get("v2", "Some model can be asked", readies, 503),
        "/metrics": _get("health", "What Prometheus scrapes", {"text/plain": {"schema": {"type": "string"}}}, 401, 403),
    }


def document(app: FastAPI) -> JsonObject:
    """The OpenAPI document, made once."""
    if app.openapi_schema is None:
        made = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        made["components"]["schemas"] |= {
            "Rows": ROWS, "Arrays": ARRAYS, "Answer": ANSWER, "Infer": INFER, "Inferred": INFERRED,
            "Images": IMAGES, "Texts": TEXTS, "Files": FORM, "Answers": ANSWERS,
        }  # fmt: skip
        made["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
        made["security"] = [{"bearer": []}, {"key": []}]
        bytes_, known = {"type": "string", "format": "binary"}, ("Rows", "Arrays", "Images", "Texts")
        plain = {
            "application/json": {"schema": {"anyOf": [_ref(name) for name in known]}},
            "multipart/form-data": {"schema": _ref("Files")},
            "text/plain": {"schema": {"type": "string"}},
            **{kind: {"schema": bytes_} for kind in ("image/jpeg", "image/png", "image/webp")},
        }
        answer = {"application/json": {"schema": {"anyOf": [_ref("Answer"), _ref("Answers")]}}}
        made["paths"]["/v1/tasks/{task}/predict"] = _post(
            "Answer recent observations, given as rows or arrays; or pictures; or messages", "tasks", ["task"], plain,
            answer,
        )  # fmt: skip
        binary = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
        take, give = ({"application/json": {"schema": _ref(name)}} for name in ("Infer", "Inferred"))
        for path in (["model"], ["model", "version"]):
            where = "/v2/models/{model}" + ("/versions/{version}" if len(path) > 1 else "") + "/infer"
            made["paths"][where] = _post(
                "Infer (Open Inference Protocol)", "v2", path, {**take, **binary}, {**give, **binary}
            )
        made["paths"] |= _health()
        for path in OPEN & made["paths"].keys():
            made["paths"][path]["get"]["security"] = []
        app.openapi_schema = made
    return app.openapi_schema
