"""Toy bundles of pictures and messages, whose answers can be worked out by hand, in small ONNX graphs.

classify picture  red, green, blue: softmax of the mean colour × 10
locate picture    one box over the square's left half, its score the mean of red there; and one that never counts
classify message  even, odd: by the number of tokens
tag message       label `jam`: every token of the word "jam"
"""

import io
from typing import Any

import numpy as np

from pipelines.core import files

SIZE = 32
COLOURS = ("red", "green", "blue")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "jam", "free", "road", "on", "the", "ring", "堵", "车"]
MAX_TOKENS = 12
NODES = {
    "image_classify": [
        ("Cast", ["pixels"], ["raw"], {"to": 1}),
        ("ReduceMean", ["raw", "space"], ["mean"], {"keepdims": 0}),
        ("Mul", ["mean", "scale"], ["logits"], {}),
        ("Softmax", ["logits"], ["probabilities"], {"axis": -1}),
    ],
    "image_locate": [
        ("Cast", ["pixels"], ["raw"], {"to": 1}),
        ("Slice", ["raw", "from", "until", "axes"], ["left"], {}),
        ("ReduceMean", ["left", "space"], ["mean"], {"keepdims": 0}),
        ("Gather", ["mean", "red"], ["level"], {"axis": 1}),
        ("Mul", ["level", "scale"], ["score"], {}),
        ("Mul", ["score", "zero"], ["none"], {}),
        ("Concat", ["score", "none"], ["scores"], {"axis": 1}),
        ("Shape", ["pixels"], ["shape"], {"end": 1}),
        ("Concat", ["shape", "one_two"], ["two"], {"axis": 0}),
        ("Concat", ["shape", "one_two_four"], ["four"], {"axis": 0}),
        ("Expand", ["box", "four"], ["boxes"], {}),
        ("Expand", ["label", "two"], ["labels"], {}),
    ],
    "text_classify": [
        ("ReduceSum", ["mask", "last"], ["count"], {"keepdims": 1}),
        ("Mod", ["count", "two"], ["odd"], {}),
        ("Cast", ["odd"], ["is_odd"], {"to": 1}),
        ("Sub", ["one", "is_odd"], ["is_even"], {}),
        ("Concat", ["is_even", "is_odd"], ["hard"], {"axis": 1}),
        ("Mul", ["hard", "most"], ["scaled"], {}),
        ("Add", ["scaled", "least"], ["probabilities"], {}),
    ],
    "text_tag": [
        ("Equal", ["ids", "jam"], ["is"], {}),
        ("Cast", ["is"], ["jammed"], {"to": 1}),
        ("Unsqueeze", ["jammed", "last"], ["column"], {}),
        ("Mul", ["column", "change"], ["moved"], {}),
        ("Add", ["moved", "outside"], ["probabilities"], {}),
    ],
}


def contents(
    modality: str = "image", objective: str = "classify", factor: float = 1.0, **told: Any
) -> dict[str, bytes]:
    """A bundle's files. factor: of what decides: another one is another model."""
    import onnxruntime
    from safetensors.numpy import save

    kind = f"{modality}_{objective}"
    names = {
        "image_classify": COLOURS,
        "image_locate": ("car",),
        "text_classify": ("even", "odd"),
        "text_tag": ("jam",),
    }
    size = {"size": SIZE} if modality == "image" else {"max_tokens": MAX_TOKENS}
    config = {
        "modality": modality, "objective": objective, "names": list(names[kind]), **size, "temperature": 1.0,
        "decision": None, "task": kind, "department": "transport", "question": "What is it?",
        "target": {"source": "cameras", "kinds": ["label"]}, "training": {},
        "backbone": {"name": modality, "sha256": "0" * 64, "family": "transformer", "size": "tiny"}, **told,
    }  # fmt: skip
    model = graph(kind, factor)
    given = golden(modality)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    outputs = [o.name for o in session.get_outputs()]
    found = dict(zip(outputs, session.run(None, given), strict=True))
    answers = {"answer": found["probabilities"]} if len(found) == 1 else {f"answer.{k}": v for k, v in found.items()}
    made = {
        "config.json": files.to_json(config),
        "model.onnx": model,
        "weights.safetensors": save({"w": np.zeros(3, np.float32)}),
        "golden.safetensors": save({**{f"input.{k}": v for k, v in given.items()}, **answers}),
    }
    return made | ({"tokenizer.json": tokenizer().to_str().encode()} if modality == "text" else {})


def golden(modality: str) -> dict[str, Any]:
    if modality == "image":
        return {"pixels": np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)}
    ids = np.array([[2, 4, 7, 8, 9, 6, 3], [2, 5, 6, 3, 0, 0, 0]], np.int64)
    return {"ids": ids, "mask": (ids > 0).astype(np.int64)}


def tokenizer() -> Any:
    """A word, or a Chinese character, a token."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"[a-zA-Z]+|\[\w+\]|\S"), "removed", invert=True)]
    )
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.enable_padding(pad_id=0, pad_token="[PAD]")
    return made


def graph(kind: str, factor: float) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    f32, i64, u8 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.UINT8
    of_image, of_text = [("pixels", u8, ["b", SIZE, SIZE, 3])], [("ids", i64, ["b", "l"]), ("mask", i64, ["b", "l"])]
    outputs: dict[str, list[tuple[str, int, list[Any]]]] = {
        "image_classify": [("probabilities", f32, ["b", 3])],
        "image_locate": [("boxes", f32, ["b", 2, 4]), ("scores", f32, ["b", 2]), ("labels", i64, ["b", 2])],
        "text_classify": [("probabilities", f32, ["b", 2])],
        "text_tag": [("probabilities", f32, ["b", "l", 3])],
    }
    constants: dict[str, dict[str, Any]] = {
        "image_classify": {"space": np.array([1, 2]), "scale": np.float32(10 / 255 * factor)},
        "image_locate": {
            "space": np.array([1, 2]), "scale": np.float32(factor / 255), "zero": np.zeros(1, np.float32),
            "red": np.array([0]), "from": np.array([0]), "until": np.array([SIZE // 2]), "axes": np.array([2]),
            "one_two": np.array([2]), "one_two_four": np.array([2, 4]), "label": np.zeros((1, 2), np.int64),
            "box": np.array([[[0, 0, 0.5, 1], [0.9, 0.9, 1, 1]]], np.float32),
        },
        "text_classify": {
            "last": np.array([1]), "two": np.array([[2]]), "one": np.ones((1, 1), np.float32),
            "most": np.float32(0.8 * factor), "least": np.float32((1 - 0.8 * factor) / 2),
        },
        "text_tag": {
            "jam": np.array([[WORDS.index("jam" if factor == 1 else "road")]]), "last": np.array([-1]),
            "change": np.array([-0.8, 0.6, 0.2], np.float32), "outside": np.array([0.9, 0.05, 0.05], np.float32),
        },
    }  # fmt: skip
    made = helper.make_graph(
        [helper.make_node(op, given, out, **told) for op, given, out, told in NODES[kind]], "toy",
        [helper.make_tensor_value_info(*one) for one in (of_image if kind.startswith("image") else of_text)],
        [helper.make_tensor_value_info(*one) for one in outputs[kind]],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants[kind].items()],
    )  # fmt: skip
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    if kind == "text_tag":
        model.graph.node.insert(0, helper.make_node("Identity", ["mask"], ["unused"]))
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def photo(
    width: int = 60, height: int = 40, colour: Any = (200, 20, 20), form: str = "JPEG", mode: str = "RGB"
) -> bytes:
    from PIL import Image

    sink = io.BytesIO()
    Image.new(mode, (width, height), colour).save(sink, form)
    return sink.getvalue()
