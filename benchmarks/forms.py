"""Windows of readings, and the requests that ask our server and MLflow's about them. Used by serving.py."""

import datetime as dt
import io
import json
import struct
from typing import Any

import numpy as np
import orjson
from load import Form

from pipelines.release.predictor import Predictor

Array = np.ndarray[Any, Any]
START = dt.datetime(2025, 4, 5, 20, tzinfo=dt.UTC)
JSON = {"content-type": "application/json"}


def windows(predictor: Predictor, count: int, missing: float = 0.02) -> Array:
    """Readings [count, steps, N] like the bundle's golden ones, each a little different, some of them missing."""
    from safetensors.numpy import load_file

    assert predictor.folder is not None
    golden = load_file(predictor.folder / "golden.safetensors")["input.values"][:1, : predictor.spec.context]
    rng = np.random.default_rng(0)
    shape = (count, *golden.shape[1:])
    values = (golden * rng.uniform(0.95, 1.05, shape)).round(1).astype(np.float32)
    values[rng.random(shape) < missing] = np.nan
    return values


class Asked:
    """Windows of some targets, without a task's further inputs: all of them, or another one in each window."""

    def __init__(self, predictor: Predictor, one: bool, count: int = 8) -> None:
        self.task, spec = predictor.config["task"], predictor.spec
        found = windows(predictor, count)[..., : predictor.targets]
        self.names = [c["sensor"] for c in predictor.channels[: predictor.targets]]
        self.kind = predictor.channels[0]["kind"]
        self.each = [
            ([self.names[i % len(self.names)]], found[i, :, [i % len(self.names)]].T) if one else (self.names, found[i])
            for i in range(count)
        ]
        self.times = [START + i * dt.timedelta(seconds=spec.step_s) for i in range(spec.context)]

    def ours(self) -> dict[str, Form]:
        infer, predict = f"/v2/models/{self.task}/infer", f"/v1/tasks/{self.task}/predict"
        made = [self._binary(*part) for part in self.each]
        heads = {length for length, _ in made}
        assert len(heads) == 1, "wrk sends the same headers with each"
        binary = {"content-type": "application/octet-stream", "inference-header-content-length": str(heads.pop())}
        return {
            "binary": Form("V2 binary", infer, binary, [body for _, body in made]),
            "arrays": Form("v1 JSON arrays", predict, JSON, [self._arrays(*part) for part in self.each]),
            "rows": Form("v1 JSON rows", predict, JSON, [orjson.dumps({"rows": self._rows(*p)}) for p in self.each]),
        }

    def theirs(self) -> dict[str, Form]:
        """All that MLflow's scoring server reads."""
        frames = [self._rows(*part) for part in self.each]
        split = [{"columns": list(f[0]), "data": [list(row.values()) for row in f]} for f in frames]
        inputs = [{name: [row[name] for row in f] for name in f[0]} for f in frames]

        def form(name: str, content: str, bodies: list[bytes]) -> Form:
            return Form(f"MLflow {name}", "/invocations", {"content-type": content}, bodies)

        made = {"dataframe_split": split, "dataframe_records": frames, "inputs": inputs}
        texts = {k: [json.dumps({k: one}).encode() for one in each] for k, each in made.items()}
        parquet = form("Parquet", "application/vnd.apache.parquet", [_parquet(f) for f in frames])
        return {**{k: form(k, JSON["content-type"], bodies) for k, bodies in texts.items()}, "parquet": parquet}

    def _binary(self, names: list[str], values: Array) -> tuple[int, bytes]:
        sensors = b"".join(struct.pack("<I", len(n.encode())) + n.encode() for n in names)
        first = struct.pack("<q", int(START.timestamp()))
        tensors = {
            "values": ("FP32", [1, *values.shape], values.astype("<f4").tobytes()),
            "start": ("INT64", [1], first),
            "sensor": ("BYTES", [len(names)], sensors),
        }
        inputs = [
            {"name": name, "datatype": kind, "shape": shape, "parameters": {"binary_data_size": len(data)}}
            for name, (kind, shape, data) in tensors.items()
        ]
        head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
        return len(head), b"".join([head, *(data for _, _, data in tensors.values())])

    def _arrays(self, names: list[str], values: Array) -> bytes:
        body = {"start": START.isoformat(), "sensors": names, "values": np.round(values.astype(float), 1)}
        return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)  # NaN becomes null

    def _rows(self, names: list[str], values: Array) -> list[dict[str, Any]]:
        texts = [f"{time:%Y-%m-%dT%H:%M:%S}" for time in self.times]
        return [
            {"time": time, "sensor": sensor, "kind": self.kind, "value": None if v != v else round(v, 1)}
            for time, row in zip(texts, values.tolist(), strict=True)
            for sensor, v in zip(names, row, strict=True)
        ]


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    import pandas as pd

    sink = io.BytesIO()
    frame = pd.DataFrame(rows).astype({"time": "datetime64[us]", "value": float})
    frame.to_parquet(sink, index=False)
    return sink.getvalue()
