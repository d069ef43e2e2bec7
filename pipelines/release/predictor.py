"""A bundle, loaded and asked: one code for evaluation, registration, serving and monitoring. No torch, no mlflow."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.core import windows
from pipelines.core.answers import calibrated, columns, more
from pipelines.core.errors import UserError
from pipelines.core.windows import Spec
from pipelines.release import bundle

Array = np.ndarray[Any, Any]
PER_CHANNEL = ("mean", "std", "place", "kind", "sensor", "unit_id", "near", "close", "ahead", "peered", "reference")
CHUNK = 64
"""Windows a call, fewer of many channels: bounds the memory of long batches."""
CELLS = 32_768
"""Windows times channels a call."""


@dataclass(frozen=True)
class Predictor:
    """Answers of one bundle.

    predictor = Predictor.load(Path("models/tasks/traffic_speed"))
    answer = predictor.predict(values, starts)   # [B, horizon, targets, len(predictor.names)]
    """

    config: dict[str, Any]
    tables: dict[str, Array]
    digest: str
    session: Any

    @classmethod
    def load(cls, folder: Path, *, threads: int = 0, variant: str = "float") -> "Predictor":
        """Verify every byte of `folder` against its manifest and load it; `threads` 0 leaves the choice to the runtime.

        variant: `float`, or `int8` where the bundle holds it. Raises UserError for a folder that is no bundle, one that
        was changed, or a variant it does not hold.
        """
        import onnxruntime
        from safetensors.numpy import load_file

        digest = bundle.verify(folder)
        graph = folder / ("model.onnx" if variant == "float" else f"model.{variant}.onnx")
        if not graph.exists():
            raise UserError(f"{folder}: this bundle has no {variant} graph ({graph.name}); load it as float")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        config = json.loads((folder / "config.json").read_bytes())
        return cls(config, load_file(folder / "tables.safetensors"), digest, session)

    @cached_property
    def spec(self) -> Spec:
        return Spec.from_json(self.config["spec"])

    @property
    def names(self) -> tuple[str, ...]:
        """What stands on the last axis of an answer."""
        return tuple(self.config["names"])

    @property
    def columns(self) -> dict[str, str]:
        """Columns of `predict_rows` and their types, as `core.answers.columns` has them."""
        return columns(self.config["objective"], self.names)

    @property
    def channels(self) -> list[dict[str, Any]]:
        """All channels the model reads; the first `targets` are answered."""
        return list(self.config["channels"])

    @property
    def targets(self) -> int:
        return int(self.config["targets"])

    @property
    def reconstruct(self) -> bool:
        return bool(self.config["reconstruct"])

    @cached_property
    def ahead(self) -> Array:
        """Of which channels the model is given the values over the horizon too, bool [N]."""
        return np.array([c.get("role") == "ahead" for c in self.channels])

    @property
    def steps(self) -> int:
        """How long a window of readings is: the context, and the future where inputs are known ahead."""
        return self.spec.context + (self.spec.future if self.ahead.any() else 0)

    def inputs(self, values: Array, starts: Array) -> dict[str, Array]:
        """What the graph is given for raw readings [B, steps, N] that begin at `starts` (UTC, [B])."""
        known = windows.known_steps(self.spec, self.reconstruct)
        late = np.arange(values.shape[1]) >= self.spec.context
        values = np.where(late[:, None] & ~self.ahead, np.float32(np.nan), values)
        prepared = windows.prepare(values, starts, self.tables["profile"], self.spec, known)
        last = slice(known - windows.beside_steps(self.spec, self.reconstruct), known)
        peers = (self.tables[k] for k in ("std", "peers", "weights"))
        beside = windows.beside(values[:, last], prepared["profile"][:, last], *peers)
        return {**prepared, "beside": beside, **{k: self.tables[k] for k in PER_CHANNEL}}

    def run(self, inputs: dict[str, Array]) -> Array:
        """The graph's own answer [B, H, N, names], uncalibrated."""
        wanted = {i.name for i in self.session.get_inputs()}
        answer: Array = self.session.run(None, {k: v for k, v in inputs.items() if k in wanted})[0]
        return answer

    def predict(self, values: Array, starts: Array) -> Array:
        """Calibrated answers [B, H, targets, names] for raw readings [B, context, N], NaN = missing.

        With inputs known ahead, [B, steps, N]: after the context they alone count, and may be missing too.
        """
        if values.shape[1:] == (self.spec.context, len(self.channels)):
            rest = np.full((len(values), self.steps - self.spec.context, len(self.channels)), np.nan, np.float32)
            values = np.concatenate([values, rest], axis=1)
        if values.shape[1:] != (self.steps, len(self.channels)):
            raise UserError(
                f"readings have shape {values.shape[1:]}, this model reads "
                f"{self.steps} steps of {len(self.channels)} channels"
            )
        size = max(1, min(CHUNK, CELLS // len(self.channels)))
        parts = [
            self.run(self.inputs(values[i : i + size], starts[i : i + size]))[:, :, : self.targets]
            for i in range(0, len(values), size)
        ]
        return calibrated(np.concatenate(parts), self.tables.get("spread"))

    def predict_rows(self, rows: dict[str, Array]) -> dict[str, Array]:
        """Long readings in, long answers out.

        rows: `time` (UTC datetime64), `sensor`, `kind`, `value`, equally long; the window ends with the newest step of
        which a target was read; of inputs known ahead later rows count too. Returns the `columns`, a row a step and
        target. Sensors the model does not know are ignored, absent ones count as missing. Raises UserError when no
        target was read.
        """
        step = np.timedelta64(self.spec.step_s, "s")
        values, start = self.window(rows)
        answer = self.predict(values, np.array([start]))[0]
        known = windows.known_steps(self.spec, self.reconstruct)
        first = start + known * step
        horizon, n = answer.shape[:2]
        asked = self.channels[:n]
        given = values[0, known : known + horizon, :n]
        return {
            "time": np.repeat(first + np.arange(horizon) * step, n),
            "sensor": np.tile(np.array([c["sensor"] for c in asked]), horizon),
            "kind": np.tile(np.array([c["kind"] for c in asked]), horizon),
            **{name: answer[..., i].reshape(-1) for i, name in enumerate(self.names)},
            **{k: v.reshape(-1) for k, v in more(self.config, self.tables, answer, given).items()},
        }

    def window(self, rows: dict[str, Array]) -> tuple[Array, np.datetime64]:
        """Readings on the model's grid [1, steps, N] and when it begins, as `join` would have put them there.

        A reading is known when the step it was measured in has ended; a coarser one holds until the next is due, finer
        ones of one step are aggregated as their kind is.
        """
        number = {(c["sensor"], c["kind"]): i for i, c in enumerate(self.channels)}
        column = np.array([number.get(k, -1) for k in zip(rows["sensor"], rows["kind"], strict=True)], int)
        value = np.asarray(rows["value"], float)
        ours = (column >= 0) & np.isfinite(value)
        column, value = column[ours], value[ours]
        if not (column < self.targets).any():
            raise UserError("no reading is of a target this model knows; see its `channels`")
        seconds = np.asarray(rows["time"]).astype("datetime64[s]").astype(np.int64)[ours]
        step, own = self.spec.step_s, np.array([c.get("step_s", self.spec.step_s) for c in self.channels])
        known_at = (seconds // own[column] + 1) * own[column]
        row = -(-known_at // step) - 1
        end = int(row[column < self.targets].max()) + 1
        hold = np.maximum(own // step, 1)
        early = int(hold.max()) - 1  # a value from before the window may still hold in it
        length, past = self.steps + early, self.spec.context + early
        row = row - (end - past)
        inside = (row >= 0) & (row < np.where(self.ahead[column], length, past))
        order = np.argsort(seconds[inside], kind="stable")
        row, column, value = row[inside][order], column[inside][order], value[inside][order]
        how = np.array([c.get("aggregate", "mean") for c in self.channels])
        placed = _aggregate(row * len(how) + column, value, how[column], length * len(how)).reshape(length, -1)
        held = placed.copy()
        for back in range(1, early + 1):
            free = np.isnan(held[back:]) & (hold > back)
            held[back:] = np.where(free, placed[:-back], held[back:])
        start = np.datetime64((end - self.spec.context) * step, "s")
        return held[None, early:].astype(np.float32), start


def _aggregate(cell: Array, value: Array, how: Array, size: int) -> Array:
    """Values that share a cell as one, by name of the aggregate; in order of time. float [size], NaN = none."""
    total, count = np.bincount(cell, value, size), np.bincount(cell, minlength=size)
    out = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    for name, reduce in (("max", np.fmax), ("min", np.fmin), ("sum", np.add)):
        mine = how == name
        out[cell[mine]] = 0.0 if name == "sum" else np.nan
        reduce.at(out, cell[mine], value[mine])
    last = how == "last"
    out[cell[last]] = value[last]  # of several, numpy keeps the last
    return out
