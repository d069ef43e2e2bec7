"""Pictures: our server against `mlflow models serve` on the very same model, and against ONNX Runtime in this process.

    python benchmarks/serving_images.py --rounds 3 --seconds 8

A ViT-small at 224 px (22 million parameters) with random weights, which cost what trained ones do, is exported once
into --out, and once more with its matrix products in int8, as `finetune.int8` does it. MLflow is asked in two forms:
the float bundle as `register` logs it, given the JPEG in base64; and its own ONNX flavour, given pixels as JSON
numbers, as its documentation shows. Cells take turns; a ratio is the median over rounds.
"""

import argparse
import base64
import contextlib
import io
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import load
import numpy as np
import servers
from load import Form
from serving import _each, ratio

from pipelines import register
from pipelines.core import files
from pipelines.release import bundle, items, rows
from pipelines.release.store import Pointer, Store

SIZE, LABELS, TASK, SMALL = 224, 10, "vehicle_type", "vehicle_type_int8"
MLFLOW = "/invocations"


def vit(folder: Path) -> Path:
    """The bundle, made where it is not there yet."""
    import torch
    from safetensors.numpy import save
    from transformers import ViTConfig, ViTForImageClassification

    if (folder / "manifest.json").exists():
        return folder
    torch.manual_seed(0)
    wide = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536}
    model = ViTForImageClassification(ViTConfig(**wide, image_size=SIZE, num_labels=LABELS)).eval()

    class Served(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            scaled = (pixels.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
            return self.model(pixel_values=scaled).logits.softmax(-1)

    pixels = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as place, torch.no_grad():
        path = Path(place) / "model.onnx"
        torch.onnx.export(
            Served(), (torch.from_numpy(pixels),), path, input_names=["pixels"], output_names=["probabilities"],
            dynamic_shapes=({0: torch.export.Dim("b", min=1, max=64)},), opset_version=18, external_data=False,
        )  # fmt: skip
        graph = path.read_bytes()
        answer = Served()(torch.from_numpy(pixels)).numpy()
    config = {
        "modality": "image", "objective": "classify", "names": [f"label {i}" for i in range(LABELS)], "size": SIZE,
        "task": TASK, "department": "transport", "question": "Which vehicle is it?", "decision": None,
    }  # fmt: skip
    bundle.write(folder, {
        "config.json": files.to_json(config), "model.onnx": graph, "weights.safetensors": save({"w": np.zeros(1)}),
        "golden.safetensors": save({"input.pixels": pixels, "answer": answer}),
    })  # fmt: skip
    return folder


def int8(folder: Path, exact: Path) -> Path:
    """The bundle of `exact` in int8, made where it is not there yet."""
    import onnx
    from safetensors.numpy import load_file, save

    from pipelines.models import export

    if (folder / "manifest.json").exists():
        return folder
    graph = export.to_int8(export.strip(onnx.load(exact / "model.onnx")).SerializeToString())
    pixels = load_file(exact / "golden.safetensors")["input.pixels"]
    answer = export.session(graph)({"pixels": pixels})
    bundle.write(folder, {
        "config.json": files.to_json({**files.read_json(exact / "config.json"), "task": SMALL}), "model.onnx": graph,
        "weights.safetensors": save({"w": np.zeros(1)}),
        "golden.safetensors": save({"input.pixels": pixels, "answer": answer}),
    })  # fmt: skip
    return folder


def jpegs(count: int = 8) -> list[bytes]:
    """Smooth noise, about as large as photographs of that size are."""
    from PIL import Image

    rng, out = np.random.default_rng(1), []
    for _ in range(count):
        small = Image.fromarray(rng.integers(0, 256, (56, 56, 3), dtype=np.uint8))
        sink = io.BytesIO()
        small.resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(sink, "JPEG", quality=90)
        out.append(sink.getvalue())
    return out


def logged(folder: Path, scratch: Path) -> dict[str, Path]:
    """The same model in MLflow's two forms."""
    import mlflow.onnx
    import mlflow.pyfunc
    import onnx
    from mlflow.models import infer_signature

    predictor = items.load(folder)
    told = rows.of(predictor)
    assert isinstance(told, rows.ItemRows)
    example = told.example()
    code = scratch / "code" / "pipelines"
    for part in ("__init__.py", "core", "release"):
        register._copy_code(servers.ROOT / "pipelines" / part, code / part)
    ours, theirs = scratch / "bundle", scratch / "onnx"
    mlflow.pyfunc.save_model(
        ours, loader_module="pipelines.release.rows", data_path=str(folder.resolve()), code_paths=[str(code)],
        signature=infer_signature(example, told.predict(example)), pip_requirements=[],
    )  # fmt: skip
    pixels = {"pixels": np.zeros((1, SIZE, SIZE, 3), np.uint8)}
    mlflow.onnx.save_model(
        onnx.load(folder / "model.onnx"), theirs, onnx_execution_providers=["CPUExecutionProvider"],
        signature=infer_signature(pixels), pip_requirements=[],
    )  # fmt: skip
    return {"bundle": ours, "onnx": theirs}


def forms(predictor: Any, some: list[bytes]) -> dict[str, Form]:
    text = [base64.b64encode(data).decode() for data in some]
    frames = [{"dataframe_split": {"columns": ["image"], "data": [[t]]}} for t in text]
    pixels = [{"inputs": {"pixels": predictor.read(data)[0][None].tolist()}} for data in some]
    kind = {"content-type": "application/json"}
    path = f"/v1/tasks/{TASK}/predict"
    return {
        "ours": Form("JPEG", path, {"content-type": "image/jpeg"}, some),
        "int8": Form("JPEG, int8", f"/v1/tasks/{SMALL}/predict", {"content-type": "image/jpeg"}, some),
        "base64": Form("JSON, base64", path, kind, [json.dumps({"image": t}).encode() for t in text]),
        "bundle": Form("JSON, base64", MLFLOW, kind, [json.dumps(f).encode() for f in frames]),
        "onnx": Form("JSON, pixels", MLFLOW, kind, [json.dumps(p).encode() for p in pixels]),
    }


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--seconds", type=float, default=8)
    options.add_argument("--connections", type=int, default=8)
    options.add_argument("--out", type=Path, default=Path(".cityloop/benchmarks/serving_images"))
    given = options.parse_args()
    folder = vit(given.out / "vit-small")
    predictor = items.load(folder)
    asked = forms(predictor, jpegs())
    with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as closing:
        scratch = Path(place)
        store = Store(str(scratch / "store"), scratch / "cache")
        store.point(Pointer(TASK, 1, store.put(TASK, folder)))
        store.point(Pointer(SMALL, 1, store.put(SMALL, int8(given.out / "vit-small-int8", folder))))
        begun = {"ours": servers.ours(scratch / "store", scratch / "ours")}
        begun |= {k: servers.mlflow(model, scratch / f"served-{k}") for k, model in logged(folder, scratch).items()}
        begun["base64"] = begun["int8"] = begun["ours"]
        for server in {id(s): s for s in begun.values()}.values():
            closing.callback(server.stop)
        same(begun, asked)
        loads = scratch / "load"

        def rate(name: str) -> float:
            return load.put(begun[name].url, asked[name], loads / name, given.connections, given.seconds).rate

        def p50(name: str) -> float:
            return load.put(begun[name].url, asked[name], loads / name, 1, given.seconds).p50_ms

        rates = turns(given.rounds, {name: lambda name=name: rate(name) for name in asked})
        pixels = predictor.read(jpegs(1)[0])[0][None]
        told = ("ours", "int8", "bundle")
        alone: dict[str, Callable[[], float]] = {name: lambda name=name: p50(name) for name in told}
        alone["session"] = lambda: _each(lambda: predictor.session.run(None, {"pixels": pixels}), given.seconds)
        took = turns(given.rounds, alone)
    print(f"| ViT-small, {SIZE} px, {given.connections} connections | ours | MLflow | ratio | aim |")
    print("|---|---|---|---|---|")
    wanted = (("ours", "onnx"), ("int8", "onnx"), ("ours", "bundle"), ("int8", "bundle"))
    for mine, theirs, aim in (*((a, b, "≥ 4") for a, b in wanted), ("base64", "bundle", "")):
        shown = [f"{statistics.median(rates[n]):.1f}/s ({asked[n].name})" for n in (mine, theirs)]
        print(f"| requests/s | {' | '.join(shown)} | {ratio(rates[mine], rates[theirs])} | {aim} |")
    own = "session.run of float in process"
    for mine, other, said in (("ours", "session", own), ("int8", "session", own), ("ours", "bundle", "MLflow")):
        ms = [f"{statistics.median(took[n]):.1f} ms" for n in (mine, other)]
        shown = f"{mine}, {said}" if mine == "int8" else said
        wish = "≤ 1.3" if other == "session" else ""
        print(f"| p50, 1 connection, ÷ {shown} | {' | '.join(ms)} | {ratio(took[mine], took[other], 2)} | {wish} |")


def turns(rounds: int, ways: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            found[name].append(way())
    return found


def same(begun: dict[str, servers.Server], asked: dict[str, Form]) -> None:
    """Raises AssertionError unless all forms are answered with the same probabilities, int8's roughly."""
    told = {name: json.loads(begun[name].answered(form)[1]) for name, form in asked.items()}
    shares = [[*told[name]["answers"][0]["probabilities"].values()] for name in ("ours", "base64")]
    row = told["bundle"]["predictions"][0]
    shares.append([v for k, v in row.items() if k != "label"])
    shares.append(np.reshape(next(iter(told["onnx"]["predictions"].values())), -1).tolist())
    rough = [*told["int8"]["answers"][0]["probabilities"].values()]
    np.testing.assert_allclose(rough, shares[0], atol=0.02)
    for one in shares[1:]:
        np.testing.assert_allclose(one, shares[0], rtol=1e-3, atol=1e-5)


if __name__ == "__main__":
    main()
