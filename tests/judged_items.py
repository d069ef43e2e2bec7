"""A city that looks and reads: joined pictures and messages, and toy bundles that know what they show.

    paths = judged_items.city(folder)      # tasks kinds (classify), places (locate), routing (classify), phrases (tag)

A picture's label is the strongest colour of its middle, its boxes are its bright quarters; a message's label and
phrases are words of lists that only a bundle knows in full.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.core import files
from pipelines.core.paths import Paths
from pipelines.release import bundle

SIDE = 32
ITEMS = {"train": 60, "validation": 30, "test": 120}
START = np.datetime64("2025-03-03T00:30:00", "us")
NAMES = {"kinds": ("bus", "car", "truck"), "places": ("bus", "car"), "routing": ("roads", "water", "waste"),
         "phrases": ("free", "jam")}  # fmt: skip
OBJECTIVES = {"kinds": "classify", "places": "locate", "routing": "classify", "phrases": "tag"}
SOURCES = {"kinds": "street", "places": "street", "routing": "letters", "phrases": "letters"}
QUARTERS = np.array([[0.05, 0.05, 0.45, 0.45], [0.55, 0.05, 0.95, 0.45], [0.05, 0.55, 0.45, 0.95],
                     [0.55, 0.55, 0.95, 0.95]], np.float32)  # fmt: skip
"""Where things stand; the left ones are buses."""
_LETTERS = np.random.default_rng(1).choice(list("abcdefghijklmnopqrstuvwxyz"), (200, 5))
WORDS = {
    label: ["".join(word) for word in _LETTERS[40 * i : 40 * i + 40]]
    for i, label in enumerate((*NAMES["routing"], *NAMES["phrases"]))
}
FILLER = [f"word{i}" for i in range(30)] + ["路口", "😀"]
PARAMS = """
city: {name: simulated, timezone: Asia/Shanghai}
sources:
  street:
    modality: image
    department: transport
    about: Cameras over crossings
    start: "2025-03-03"
    validation_from: "2025-03-05"
    test_from: "2025-03-07"
    step: 1h
    read: {connector: simulator, feed: cameras}
    kinds: {label: {labels: [bus, car, truck]}, boxes: {labels: [bus, car]}}
  letters:
    modality: text
    department: mayor
    about: Messages to the city
    start: "2025-03-03"
    validation_from: "2025-03-05"
    test_from: "2025-03-07"
    step: 1h
    read: {connector: simulator, feed: messages}
    kinds: {label: {labels: [roads, water, waste]}, spans: {labels: [free, jam]}}
backbones:
  eyes: {modality: image}
  ears: {modality: text}
tasks:
  kinds:
    modality: image
    department: transport
    question: What stands in the middle?
    objective: classify
    backbone: eyes
    target: {source: street, kinds: [label]}
  places:
    modality: image
    department: transport
    question: What stands where?
    objective: locate
    backbone: eyes
    target: {source: street, kinds: [boxes]}
  routing:
    modality: text
    department: mayor
    question: Which department is it for?
    objective: classify
    backbone: ears
    target: {source: letters, kinds: [label]}
  phrases:
    modality: text
    department: transport
    question: Where is it said that traffic stands?
    objective: tag
    backbone: ears
    target: {source: letters, kinds: [spans]}
"""


def city(folder: Path, tasks: tuple[str, ...] = tuple(OBJECTIVES)) -> Paths:
    """All that `evaluate` and `card` read."""
    files.write_bytes(folder / "params.yaml", PARAMS.encode())
    files.write_bytes(folder / "window.yaml", b'street: "2025-03-12"\nletters: "2025-03-12"\n')
    paths = Paths(folder)
    for task in tasks:
        join(paths, task)
        bundle.write(paths.task(task), contents(task))
        report = {"train": {"loss": 0.1}, "validation": {"loss": 0.2}, "parameters": 1234, "steps": 20}
        files.write_json(paths.metrics("finetune", task), report)
        files.write_json(
            paths.plots("finetune", task) / "curve.json", [{"step": 0, "train_loss": 1.0, "validation_loss": 1.5}]
        )
    for backbone in ("eyes", "ears"):
        files.write_json(paths.metrics("pretrain", backbone), {"validation": {"loss": 0.3}})
    for source in ("street", "letters"):
        files.write_json(paths.metrics("validate", source), VALIDATED)
    return paths


VALIDATED = {
    "records": 220, "validated": 210, "quarantined": 10, "reasons": {"blank": 3, "duplicate": 7},
    "masked": {"files": {}, "found": {"plate": 4, "e_mail": 2}},
    "expectations": {"passed": 9, "failed": 0, "warnings": 0},
}  # fmt: skip


def join(paths: Paths, task: str) -> None:
    """joined/<task>/, an item an hour; every two share a group."""
    rng = np.random.default_rng(5)
    n = sum(ITEMS.values())
    columns: dict[str, Any] = {
        "time": pa.array(START + np.arange(n) * np.timedelta64(3600, "s"), pa.timestamp("us", "UTC")),
        "group": pa.array(np.arange(n) // 2, pa.int64()),
        "split": [split for split, count in ITEMS.items() for _ in range(count)],
    }
    folder = paths.joined(task)
    folder.mkdir(parents=True, exist_ok=True)
    about: dict[str, Any] = {"source": SOURCES[task], "names": list(NAMES[task])}
    if SOURCES[task] == "street":
        pixels, labels, boxes = pictures(n, rng)
        np.save(folder / "pixels.npy", pixels)
        columns |= {"camera": [f"cam_{i % 3}" for i in range(n)], "blob": [f"{i:064x}" for i in range(n)],
                    "width": [SIDE] * n, "height": [SIDE] * n, "labels": labels, "boxes": boxes}  # fmt: skip
        about |= {"modality": "image", "size": SIDE, "kind": "label" if task == "kinds" else "boxes"}
    else:
        texts, label, spans = messages(n, rng)
        columns |= {"id": [f"m{i}" for i in range(n)], "text": texts, "label": label, "spans": spans,
                    "language": ["en" if i % 2 else "zh" for i in range(n)]}  # fmt: skip
        about |= {"modality": "text", "kind": "label" if task == "routing" else "spans"}
    pq.write_table(pa.table(columns), folder / "items.parquet")
    files.write_json(folder / "about.json", about)


def pictures(n: int, rng: np.random.Generator) -> tuple[Any, list[Any], list[Any]]:
    pixels = rng.integers(0, 130, (n, SIDE, SIDE, 3)).astype(np.uint8)
    label = rng.choice(3, n, p=[0.2, 0.5, 0.3])
    lit = rng.random((n, 4)) < 0.4
    half, quarter = SIDE // 2, SIDE // 4
    for i in range(n):
        for q in np.flatnonzero(lit[i]):
            y, x = q // 2 * half, q % 2 * half
            pixels[i, y : y + half, x : x + half] += np.uint8(110)
        middle = pixels[i, half - quarter // 2 : half + quarter // 2, half - quarter // 2 : half + quarter // 2]
        middle[..., label[i]] = np.minimum(middle[..., label[i]] + 25.0 + rng.normal(0, 15), 255).astype(np.uint8)
    boxes = [
        [
            {"label": NAMES["places"][q % 2], "x": float(a), "y": float(b), "width": float(c - a),
             "height": float(d - b)}
            for q, (a, b, c, d) in enumerate(QUARTERS) if lit[i, q]
        ]
        for i in range(n)
    ]  # fmt: skip
    return pixels, [[NAMES["kinds"][c]] for c in label], boxes


def messages(n: int, rng: np.random.Generator) -> tuple[list[str], list[str], list[Any]]:
    texts, labels, spans = [], [], []
    for _ in range(n):
        label, phrase = (str(rng.choice(NAMES[task])) for task in ("routing", "phrases"))
        words = [str(w) for w in rng.choice(FILLER, 6)]
        words[int(rng.integers(6))] = str(rng.choice(WORDS[label]))
        at = int(rng.integers(6))
        said = " ".join(str(w) for w in rng.choice(WORDS[phrase], 2))
        before = " ".join(words[:at])
        start = len(before) + (1 if before else 0)
        some = rng.random() < 0.7
        texts.append(" ".join([*words[:at], *([said] if some else []), *words[at:]]))
        spans.append([{"start": start, "end": start + len(said), "label": phrase}] if some else [])
        labels.append(label)
    return texts, labels, spans


def contents(task: str, skill: float = 1.0, **config: Any) -> dict[str, bytes]:
    """The bundle's files; `skill` 0: it says the same of everything. `config` replaces keys of its config."""
    import onnxruntime
    from safetensors.numpy import save

    text = SOURCES[task] == "letters"
    graph = (_reads if text else _sees)(task, skill)
    rng = np.random.default_rng(0)
    given: dict[str, Any] = {"pixels": pictures(4, rng)[0]}
    if text:
        given = {"ids": rng.integers(2, 60, (4, 12)), "mask": np.ones((4, 12), np.int64)}
    session = onnxruntime.InferenceSession(graph)
    outputs = [o.name for o in session.get_outputs()]
    answers = dict(zip(outputs, session.run(None, given), strict=True))
    golden = {f"input.{k}": np.ascontiguousarray(v) for k, v in given.items()}
    one = len(outputs) == 1
    golden |= {"answer" if one else f"answer.{k}": np.ascontiguousarray(v) for k, v in answers.items()}
    told = {
        "task": task,
        "modality": "text" if text else "image",
        "objective": OBJECTIVES[task],
        "department": "transport",
        "question": "What?",
        "names": list(NAMES[task]),
        "target": {"source": SOURCES[task], "kinds": []},
        **({"max_tokens": 32} if text else {"size": SIDE}),
        "temperature": 1.0,
        "decision": 0.5 if task == "places" else None,
        "backbone": {"name": "ears" if text else "eyes", "sha256": "0" * 64, "family": "transformer", "size": "tiny"},
        "training": {"until": "2025-03-05T00:00:00", "items": 60},
        **config,
    }
    made = {
        "model.onnx": graph,
        "weights.safetensors": save({"w": np.zeros(3, np.float32)}),
        "golden.safetensors": save(golden),
        "config.json": files.to_json(told),
    }
    return made | ({"tokenizer.json": tokenizer()} if text else {})


def vocabulary() -> list[str]:
    return ["[PAD]", "[UNK]", *FILLER, *(word for words in WORDS.values() for word in words)]


def tokenizer() -> bytes:
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocabulary())}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return str(made.to_str()).encode()


def _reads(task: str, skill: float) -> bytes:
    """Of words: a table of what each says, averaged over the message, or of each by itself."""
    from onnx import helper

    words, names = vocabulary(), NAMES[task]
    tag = OBJECTIVES[task] == "tag"
    says = np.zeros((len(words), 1 + 2 * len(names) if tag else len(names)), np.float32)
    for i, word in enumerate(words):
        label = next((name for name in names if word in WORDS[name]), None)
        if tag:
            says[i, 0] = 0.0 if label else 6 * skill
            if label:
                says[i, [1 + 2 * names.index(label), 2 + 2 * names.index(label)]] = [5 * skill, 7 * skill]
        elif label:
            says[i, names.index(label)] = 24 * skill
    nodes = [helper.make_node("Gather", ["says", "ids"], ["each"])]
    if tag:
        nodes.append(helper.make_node("Softmax", ["each"], ["probabilities"], axis=-1))
        shape = ["b", "l", says.shape[1]]
    else:
        nodes += [
            helper.make_node("Cast", ["mask"], ["kept"], to=1),
            helper.make_node("Unsqueeze", ["kept", "last"], ["wide"]),
            helper.make_node("Mul", ["each", "wide"], ["some"]),
            helper.make_node("ReduceSum", ["some", "one"], ["total"], keepdims=0),
            helper.make_node("ReduceSum", ["wide", "one"], ["count"], keepdims=0),
            helper.make_node("Div", ["total", "count"], ["mean"]),
            helper.make_node("Softmax", ["mean"], ["probabilities"], axis=-1),
        ]
        shape = ["b", says.shape[1]]
    constants = {"says": says, "last": np.array([2], np.int64), "one": np.array([1], np.int64)}
    inputs = {"ids": (7, ["b", "l"]), "mask": (7, ["b", "l"])}
    return _graph(nodes, inputs, {"probabilities": (1, shape)}, constants)


def _sees(task: str, skill: float) -> bytes:
    from onnx import helper

    nodes = [helper.make_node("Cast", ["pixels"], ["light"], to=1)]
    inputs = {"pixels": (2, ["b", SIDE, SIDE, 3])}
    if task == "kinds":
        low, high = SIDE // 2 - SIDE // 8, SIDE // 2 + SIDE // 8
        constants = {"low": np.array([low, low], np.int64), "high": np.array([high, high], np.int64),
                     "axes": np.array([1, 2], np.int64), "scale": np.float32(0.2 * skill)}  # fmt: skip
        nodes += [
            helper.make_node("Slice", ["light", "low", "high", "axes"], ["middle"]),
            helper.make_node("ReduceMean", ["middle", "axes"], ["mean"], keepdims=0),
            helper.make_node("Mul", ["mean", "scale"], ["scaled"]),
            helper.make_node("Softmax", ["scaled"], ["probabilities"], axis=-1),
        ]
        return _graph(nodes, inputs, {"probabilities": (1, ["b", 3])}, constants)
    half = SIDE // 2
    constants = {
        "parts": np.array([0, 2, half, 2, half, 3], np.int64), "inside": np.array([2, 4, 5], np.int64),
        "four": np.array([0, 4], np.int64), "grey": np.float32(120), "scale": np.float32(0.1 * skill),
        "k": np.array([4], np.int64), "places": QUARTERS, "names": np.array([0, 1, 0, 1], np.int64),
        "rest": np.array([0, 0, 0, 96], np.int64), "rest3": np.array([0, 0, 0, 0, 96, 0], np.int64),
    }  # fmt: skip
    nodes += [
        helper.make_node("Reshape", ["light", "parts"], ["quarters"]),
        helper.make_node("ReduceMean", ["quarters", "inside"], ["bright"], keepdims=0),
        helper.make_node("Reshape", ["bright", "four"], ["flat"]),
        helper.make_node("Sub", ["flat", "grey"], ["off"]),
        helper.make_node("Mul", ["off", "scale"], ["scaled"]),
        helper.make_node("Sigmoid", ["scaled"], ["sure"]),
        helper.make_node("TopK", ["sure", "k"], ["top", "which"]),
        helper.make_node("Gather", ["places", "which"], ["there"]),
        helper.make_node("Gather", ["names", "which"], ["named"]),
        helper.make_node("Pad", ["top", "rest"], ["scores"]),
        helper.make_node("Pad", ["there", "rest3"], ["boxes"]),
        helper.make_node("Pad", ["named", "rest"], ["labels"]),
    ]
    outputs = {"boxes": (1, ["b", 100, 4]), "scores": (1, ["b", 100]), "labels": (7, ["b", 100])}
    return _graph(nodes, inputs, outputs, constants)


def _graph(nodes: list[Any], inputs: dict[str, Any], outputs: dict[str, Any], constants: dict[str, Any]) -> bytes:
    from onnx import helper, numpy_helper

    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info(name, *what) for name, what in inputs.items()],
        [helper.make_tensor_value_info(name, *what) for name, what in outputs.items()],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    data: bytes = model.SerializeToString(deterministic=True)
    return data
