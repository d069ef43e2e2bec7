"""A bundle, loaded and asked: one code for evaluation, registration, serving and monitoring. No torch, no mlflow."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.core import windows
from pipelines.core.answers import calibrated, columns, more
from pipelines.core.errors import UserError
from pipelines.core.windows import Spec
from pipelines.release import bundle, readings
from pipelines.release.channels import acquainted, chosen, joined

Array = np.ndarray[Any, Any]
PER_CHANNEL = ("mean", "std", "place", "kind", "sensor", "unit_id", "near", "close", "ahead", "peered", "reference")
CHUNK, CELLS = 64, 256
"""Windows a call of the graph, and windows times channels: what lies in the processor's cache is answered sooner, and a
long batch takes no more memory than a short one."""


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
    folder: Path | None = None
    """The bundle's, where this is all of it."""

    @classmethod
    def load(cls, folder: Path, *, threads: int = 0, variant: str = "float", shared: bool = False) -> "Predictor":
        """Verify every byte of `folder` against its manifest and load it; `threads` 0 leaves the choice to the runtime.

        variant: `float`, or `int8` where the bundle holds it. shared: what a run frees is kept for the next one, of any
        model in this process that shares too; for a process that answers many requests of many shapes. Raises UserError
        for a folder that is no bundle, one that was changed, or a variant it does not hold.
        """
        from safetensors.numpy import load_file

        digest, config, session = opened(folder, threads, variant, shared)
        return cls(config, load_file(folder / "tables.safetensors"), digest, session, folder)

    def golden(self) -> float:
        """By how much answers here differ at most from the bundle's golden ones, relative to their size.

        Another machine may make 1e-5 of it, an int8 graph 1e-3; infinity is no answer at all.
        """
        from safetensors.numpy import load_file

        assert self.folder is not None, "a model for some of a bundle's channels has no golden answers"
        stored = load_file(self.folder / "golden.safetensors")
        given = {k.removeprefix("input."): v for k, v in stored.items() if k.startswith("input.")}
        if missing := self._wanted - given.keys():
            raise UserError(f"{self.folder}: golden inputs lack {', '.join(sorted(missing))}; make the bundle again")
        answer, golden = self.run(given), stored["answer"]
        if answer.shape != golden.shape or not np.isfinite(answer).all():
            return float("inf")
        return float(np.abs(answer - golden).max() / max(float(np.abs(golden).max()), 1e-12))

    def only(self, columns: tuple[int, ...]) -> "Predictor":
        """The same model for the channels numbered `columns`, in that order: targets first, at least one.

        The others are not there: nobody looks at them, and they cost nothing. Of windows whose other channels are all
        missing the answer is not quite the same, for those do say that they are silent.
        """
        column = np.array(columns, int)
        asked = column < self.targets
        if not len(set(columns)) == len(columns) or not asked[:1].any() or (asked[1:] > asked[:-1]).any():
            raise ValueError(f"{columns} are not distinct channels, targets first and at least one")
        config = {**self.config, "channels": [self.channels[i] for i in columns], "targets": int(asked.sum())}
        tables = chosen(self.tables, column, self.targets)
        return replace(self, config=config, tables=tables, folder=None)

    def joined_by(self, strangers: Iterable[tuple[str, str]]) -> "Predictor":
        """The same model with sensors it never saw, (sensor, kind): see `channels.joined` for what it takes them for.

        New targets come after the known ones, new inputs last; their channels say `stranger`. Raises UserError for a
        kind it does not know either, or where the model tells anomalies: what is usual must be learnt.
        """
        known = {(c["sensor"], c["kind"]) for c in self.channels}
        new = [s for s in dict.fromkeys(strangers) if s not in known]
        if not new:
            return self
        if "misfit" in self.tables:
            raise UserError(f"sensor {new[0][0]!r} is unknown; anomalies are told of sensors whose usual was learnt")
        tables, there = joined(self.tables, self.channels, new)
        order = sorted(range(len(there)), key=lambda i: there[i]["role"] != "target")
        targets = sum(c["role"] == "target" for c in there)
        config = {**self.config, "channels": [there[i] for i in order], "targets": targets}
        return replace(self, config=config, tables=chosen(tables, np.array(order), targets), folder=None)

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
        found: list[dict[str, Any]] = self.config["channels"]
        return found

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

    @cached_property
    def steps(self) -> int:
        """How long a window of readings is: the context, and the future where inputs are known ahead."""
        drivers = self.tables.get("ahead")  # they stay when every channel known ahead is left out
        return self.spec.context + (self.spec.future if drivers is not None and drivers.shape[1] else 0)

    @cached_property
    def _wanted(self) -> frozenset[str]:
        return frozenset(i.name for i in self.session.get_inputs())

    @cached_property
    def _strangers(self) -> Array:
        """Numbers of the channels that joined."""
        return np.flatnonzero([c.get("stranger", False) for c in self.channels])

    def inputs(self, values: Array, starts: Array) -> dict[str, Array]:
        """What the graph is given for raw readings [B, steps, N] that begin at `starts` (UTC, [B])."""
        known, tables = windows.known_steps(self.spec, self.reconstruct), self.tables
        if values.shape[1] > self.spec.context:
            late = np.arange(values.shape[1]) >= self.spec.context
            values = np.where(late[:, None] & ~self.ahead, np.float32(np.nan), values)
        if len(self._strangers):
            tables = acquainted(tables, self._strangers, values[:, :known, self._strangers])
        prepared = windows.prepare(values, starts, tables["profile"], self.spec, known)
        last = slice(known - windows.beside_steps(self.spec, self.reconstruct), known)
        beside = windows.beside(
            values[:, last], prepared["profile"][:, last], tables["std"], tables["peers"], tables["weights"]
        )
        return {**prepared, "beside": beside, **{k: tables[k] for k in PER_CHANNEL}}

    def run(self, inputs: dict[str, Array]) -> Array:
        """The graph's own answer [B, H, N, names], uncalibrated."""
        wanted = self._wanted
        answer: Array = self.session.run(None, {k: v for k, v in inputs.items() if k in wanted})[0]
        return answer

    def predict(self, values: Array, starts: Array) -> Array:
        """Calibrated answers [B, H, targets, names] for raw readings [B, context, N], NaN = missing.

        With inputs known ahead, [B, steps, N]: after the context they alone count, and may be missing too. Raises
        UserError for readings of another shape and for times that cannot be.
        """
        n, context = len(self.channels), self.spec.context
        whole = values.shape[1:] in ((context, n), (self.steps, n)) and len(values) > 0
        if not whole or starts.shape != values.shape[:1]:
            raise UserError(
                f"readings have shape {values.shape} and their starts {starts.shape}; this model reads windows of "
                f"{self.steps} steps of {n} channels"
            )
        if values.shape[1] < self.steps:
            rest = np.full((len(values), self.steps - context, n), np.nan, np.float32)
            values = np.concatenate([values, rest], axis=1)
        # Strangers are what their own window makes of them, whatever is asked beside it.
        starts, size = readings.sane(starts), 1 if len(self._strangers) else max(1, min(CHUNK, CELLS // n))
        parts = [
            self.run(self.inputs(values[i : i + size], starts[i : i + size]))[:, :, : self.targets]
            for i in range(0, len(values), size)
        ]
        return calibrated(parts[0] if len(parts) == 1 else np.concatenate(parts), self.tables.get("spread"))

    def predict_rows(self, rows: dict[str, Array], *, strangers: bool = False) -> dict[str, Array]:
        """Long readings in, long answers out.

        rows: `time` (UTC datetime64), `sensor`, `kind`, `value`, equally long; the window ends with the newest step of
        which a target was read; of inputs known ahead later rows count too. Returns the `columns`, a row a step and
        target. The channels that are named take part, see `only`: what is named without a value is missing, what is not
        named is not there, and not answered. Sensors that the model does not know are ignored, or with `strangers` join
        in. Raises UserError when no target was read, and as `joined_by` does.
        """
        column = readings.columns(rows, self.channels)
        if strangers and (column < 0).any():
            new = ((str(rows["sensor"][i]), str(rows["kind"][i])) for i in np.flatnonzero(column < 0))
            return self.joined_by(new).predict_rows(rows)
        named = np.flatnonzero(np.bincount(column + 1, minlength=len(self.channels) + 1)[1:])
        if len(named) == len(self.channels) or not (named < self.targets).any():  # who has no target is told so there
            return self._answered(rows, column)
        number = np.full(len(self.channels) + 1, -1)  # the last stands for -1, unknown
        number[named] = np.arange(len(named))
        return self.only(tuple(named.tolist()))._answered(rows, number[column])

    def _answered(self, rows: dict[str, Array], column: Array) -> dict[str, Array]:
        step = np.timedelta64(self.spec.step_s, "s")
        values, start = self._placed(rows, column)
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
        """Readings of all channels on the model's grid [1, steps, N], see `readings.placed`, and when it begins."""
        return self._placed(rows, readings.columns(rows, self.channels))

    def _placed(self, rows: dict[str, Array], column: Array) -> tuple[Array, np.datetime64]:
        spec = self.spec
        given = (self.channels, self.targets, spec.step_s, spec.context, self.steps - spec.context)
        values, first = readings.placed(rows, column, *given)
        return values[None], np.datetime64(first * spec.step_s, "s")


def opened(folder: Path, threads: int, variant: str, shared: bool) -> tuple[str, dict[str, Any], Any]:
    """Digest, config and session of a bundle, whose every byte was verified; told and raising as `Predictor.load`."""
    import onnxruntime

    digest = bundle.verify(folder)
    graph = folder / ("model.onnx" if variant == "float" else f"model.{variant}.onnx")
    if not graph.exists():
        raise UserError(f"{folder}: this bundle has no {variant} graph ({graph.name}); load it as float")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # A session's own arena keeps the most that any mix of shapes ever took, doubled: 1.8 GB in a trial.
    options.enable_cpu_mem_arena, options.enable_mem_pattern = shared, not shared
    if shared:
        _share_memory()
        options.add_session_config_entry("session.use_env_allocators", "1")
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others want the cores too
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return digest, json.loads((folder / "config.json").read_bytes()), session


@cache
def _share_memory() -> None:
    """One arena for all sessions that ask for it. It grows by what is needed, not by doubling."""
    import onnxruntime

    kinds = (onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT)
    by_need = onnxruntime.OrtArenaCfg({"arena_extend_strategy": 1})
    onnxruntime.create_and_register_allocator(onnxruntime.OrtMemoryInfo("Cpu", *kinds), by_need)
