"""cards/<task>/request.json + bundle → an MLflow run and a model version. An effect: outside DVC, idempotent.

A run is found by its inputs (the lineage), a version by its bundle's digest, and either is completed
from files where something is missing: after a kill, a wiped registry, or a stage restored from cache.
"""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

import pipelines
from pipelines.core import files, keys, log, params
from pipelines.core.errors import UserError
from pipelines.core.params import Params
from pipelines.core.paths import Paths
from pipelines.core.tracking import DESCRIPTION_LIMIT, DIGEST, Point, Tracking, connect, locked, page_url
from pipelines.release import bundle, items, page, rows
from pipelines.release.predictor import Predictor

if TYPE_CHECKING:
    import pandas as pd

CANDIDATE = "candidate"
_REQUIREMENTS: tuple[str, ...] = (
    "mlflow", "numpy", "onnxruntime", "pandas", "pyarrow", "pydantic", "pyyaml", "safetensors", "tzdata",
)  # fmt: skip
_MORE = {"image": ("pillow",), "text": ("tokenizers",)}
"""Needed beside those, by modality."""
_CURVES = {"finetune": ("train_loss", "validation_loss"), "pretrain": ("train_loss", "validation_loss")}


@dataclass(frozen=True)
class Entry:
    """What is to be registered: the stage's request, and where it was made."""

    request: dict[str, Any]
    lineage: str
    stages: list[str]
    commit: str
    dirty: bool

    @property
    def name(self) -> str:
        return str(self.request["task"])

    @property
    def digest(self) -> str:
        return str(self.request["digest"])

    @property
    def inputs(self) -> str:
        """What the MLflow run is found by. Without a lineage the bundle itself is all that is known."""
        return self.lineage if self.lineage != "none" else f"digest:{self.digest}"


def run(task: str | None, *, everything: bool = False, root: Path = Path()) -> list[dict[str, str]]:
    """Register `task`, or every task that has a card: [{task, version, digest, commit, url}].

    Raises UserError for a bundle that is not what its card says, after the others have been registered.
    """
    paths = Paths(root)
    entries, refused, made = [], [], []
    for name in _names(params.load(root), task, everything, paths):
        try:
            entries.append(_entry(name, paths))
        except UserError as error:
            refused.append(str(error))
    if entries:
        with connect(paths) as tracking:
            for entry in entries:
                with log.room("register", entry.name) as told, locked(paths.state / f"register-{entry.name}.lock"):
                    told["version"], told["digest"] = _register(tracking, entry, paths), entry.digest[:12]
                made.append({"task": entry.name, "version": told["version"], "digest": entry.digest,
                             "commit": entry.commit, "url": page_url(paths, entry.name, told["version"])})  # fmt: skip
    if refused:
        raise UserError("; ".join(refused))
    return made


def _names(city: Params, task: str | None, everything: bool, paths: Paths) -> list[str]:
    """Tasks of params.yaml only: the card of a task that was taken out may still lie there."""
    if (task is None) == (not everything):
        raise UserError("name one task, or give --all: cityloop register traffic_speed")
    if task is not None:
        city.task(task)
        return [task]
    carded = [name for name in city.tasks if (paths.card(name) / "request.json").is_file()]
    if not carded:
        raise UserError(f"{paths.root / 'cards'}: no task has a card yet; run dvc repro")
    for name in city.tasks:
        if name not in carded:
            log.logger.warning("register %s: no card yet, passed over", name)
    return carded


def _entry(name: str, paths: Paths) -> Entry:
    """The request, checked against the bundle's bytes, with lineage and commit of the checkout."""
    path = paths.card(name) / "request.json"
    try:
        request = files.read_json(path)
        wanted = request["digest"]
    except FileNotFoundError:
        raise UserError(f"{path}: no such card; run `dvc repro card@{name}`") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: not a registration request; run `dvc repro card@{name}`") from None
    found = bundle.verify(paths.task(name))
    if found != wanted or request["task"] != name:
        raise UserError(
            f"{path}: it is about bundle {wanted[:12]} of {request['task']}, but {paths.task(name)} is {found[:12]}; "
            f"run `dvc repro card@{name}`"
        )
    return Entry(request, *_lineage(name, paths), *keys.commit(paths.root))


def _lineage(name: str, paths: Paths) -> tuple[str, list[str]]:
    """The lineage of the card that lies here, and its stages; "none" where dvc.lock does not speak of this card."""
    stage, card = f"card@{name}", paths.card(name)
    try:
        lock = keys.read_lock(paths.root)
        made = {out["path"]: out["md5"] for out in lock["stages"][stage]["outs"]}
    except KeyError:
        log.logger.warning("register %s: dvc.lock has no %s, so the version will name no lineage", name, stage)
        return "none", []
    except yaml.YAMLError:
        raise UserError(f"{paths.root / 'dvc.lock'}: not valid YAML; restore it, or run dvc repro") from None
    if made.get(f"cards/{name}") != keys.folder_md5(card):
        log.logger.warning(
            "register %s: dvc.lock is about another card than %s (a room was run by hand), "
            "so the version will name no lineage; `dvc repro %s` mends it", name, card, stage,
        )  # fmt: skip
        return "none", []
    return keys.lineage(lock, stage)


def _register(tracking: Tracking, entry: Entry, paths: Paths) -> str:
    """Bring MLflow to hold this entry. Each step finds what is there already, so a killed call is simply repeated."""
    experiment = tracking.experiment(f"cityloop/{entry.name}")
    mlrun = tracking.run(experiment, entry.inputs, f"{entry.name} {entry.digest[:8]}")
    version = tracking.version(entry.name, entry.digest)
    model_id = tracking.model(experiment, entry.digest) or _log_model(tracking, entry, mlrun, paths)
    if not tracking.complete(mlrun):
        _fill(tracking, entry, mlrun, model_id, paths)
    version = version or tracking.create_version(entry.name, model_id, mlrun, entry.digest)
    entry, history = _history(entry, version.tags)
    run_id = mlrun.info.run_id
    card = (paths.card(entry.name) / "card.md").read_text(encoding="utf-8")
    verdict = {} if "verdict" in version.tags else {"verdict": "pending"}
    text = description(card, entry, run_id, version.description or "")
    tracking.describe(version, text, {**_tags(entry), **history, **verdict, "run": run_id})
    tracking.tag_run(mlrun, {**_tags(entry), "mlflow.source.git.commit": entry.commit})
    _nominate(tracking, entry.name)
    tracking.finish(mlrun)
    return str(version.version)


def _history(entry: Entry, tags: Mapping[str, str]) -> tuple[Entry, dict[str, str]]:
    """Tags `lineage.<n>`: every lineage that ended in these bytes, each with the commit it was first registered at.

    The other tags and the description follow the lineage registered last. A commit once recorded stays, since later
    ones change nothing that the lineage sees; only a dirty one is replaced, by a clean one.
    """
    past = {k: v.split() for k, v in tags.items() if k.startswith("lineage.")}
    key = next((k for k, v in past.items() if v[0] == entry.lineage), f"lineage.{len(past) + 1}")
    known = past.get(key)
    if known and (entry.dirty or known[2] == "clean"):
        entry = replace(entry, commit="" if known[1] == "none" else known[1], dirty=known[2] == "dirty")
    return entry, {key: f"{entry.lineage} {entry.commit or 'none'} {'dirty' if entry.dirty else 'clean'}"}


def _fill(tracking: Tracking, entry: Entry, mlrun: Any, model_id: str, paths: Paths) -> None:
    """Params, metrics, curves and artifacts of fine-tuning, evaluation and the data they rest on."""
    request, name = entry.request, entry.name
    tracking.log(mlrun, request["params"], [Point(k, v) for k, v in request["metrics"].items()], model_id)
    tracking.log(mlrun, {}, _curves(request, paths))
    tracking.log(mlrun, {}, _latency(name, paths), model_id)
    tracking.tag_run(mlrun, {"mlflow.note.content": request["summary"]})
    tracking.keep(mlrun, paths.card(name), "card")
    for stage, key in _stages(request):
        tracking.keep(mlrun, paths.metrics(stage, key), f"metrics/{stage}")
        tracking.keep(mlrun, paths.plots(stage, key), f"plots/{stage}" + (f"/{key}" if key != name else ""))


def _stages(request: dict[str, Any]) -> list[tuple[str, str]]:
    """(stage, key) of all that has metrics or plots to show."""
    return [
        ("evaluate", request["task"]),
        ("latency", request["task"]),
        ("finetune", request["task"]),
        *([("pretrain", request["backbone"])] if request["backbone"] else []),
        *(("validate", source) for source in request["sources"]),
    ]


def _curves(request: dict[str, Any], paths: Paths) -> Iterator[Point]:
    for stage, key in _stages(request):
        path = paths.plots(stage, key) / "curve.json"
        if stage not in _CURVES or not path.is_file():
            continue
        for row in files.read_json(path):
            for loss in _CURVES[stage]:
                if isinstance(row.get(loss), int | float):
                    yield Point(f"{stage}/{loss}", float(row[loss]), int(row["step"]))


def _latency(name: str, paths: Paths) -> Iterator[Point]:
    """How long each variant of the bundle took to answer, where it was evaluated."""
    path = paths.metrics("latency", name)
    for variant, found in (files.read_json(path) if path.is_file() else {}).items():
        yield Point(f"latency/{variant}_load_ms", found["load_ms"])
        yield Point(f"latency/{variant}_one_ms", found["one"]["median_ms"])
        yield Point(f"latency/{variant}_batch_ms", found["batch"]["median_ms"])
        yield Point(f"latency/{variant}_peak_rss_mb", found["peak_rss_mb"])


def _log_model(tracking: Tracking, entry: Entry, mlrun: Any, paths: Paths) -> str:
    """The bundle as an MLflow model: its files and the release code that loads them; no pickle."""
    from mlflow.models import infer_signature

    predictor, needed = items.load(paths.task(entry.name)), _REQUIREMENTS
    if isinstance(predictor, Predictor):
        example = _example(predictor, paths.task(entry.name), entry.request["test_from"])
    else:
        needed, example = needed + _MORE[predictor.modality], rows.ItemRows(predictor).example()
    home = Path(pipelines.__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        code = Path(folder) / "pipelines"
        for part in ("__init__.py", "core", "release"):
            _copy_code(home / part, code / part)
        return tracking.log_model(
            mlrun,
            entry.digest,
            entry.name,
            loader_module="pipelines.release.rows",
            data_path=str(paths.task(entry.name).resolve()),
            code_paths=[str(code)],
            signature=infer_signature(example, rows.of(predictor).predict(example)),
            input_example=example,
            pip_requirements=[f"{package}=={metadata.version(package)}" for package in needed],
            metadata={DIGEST: entry.digest, "task": entry.name},
        )


def _copy_code(source: Path, target: Path) -> None:
    """Python files only: neither bytecode nor anything else that lies there."""
    found = [source] if source.is_file() else sorted(source.rglob("*.py"))
    for path in found:
        copy = target / path.relative_to(source) if source.is_dir() else target
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)


def _example(predictor: Predictor, folder: Path, end: str) -> "pd.DataFrame":
    """Golden readings of two sensors as long rows, a context that ends at `end`; other sensors take no part."""
    import pandas as pd
    from safetensors.numpy import load_file

    golden = load_file(folder / "golden.safetensors")
    steps = np.arange(-predictor.spec.context, 0) * np.timedelta64(predictor.spec.step_s, "s")
    times = np.datetime64(params.parse_instant(end).replace(tzinfo=None), "us") + steps
    sensors = list(dict.fromkeys(c["sensor"] for c in predictor.channels))[:2]
    frames = [
        pd.DataFrame(
            {"time": times, "sensor": c["sensor"], "kind": c["kind"], "value": golden["input.values"][0, :, i]}
        )
        for i, c in enumerate(predictor.channels)
        if c["sensor"] in sensors
    ]
    frame = pd.concat(frames, ignore_index=True)
    return frame.astype({"value": float, "sensor": object, "kind": object})


def _tags(entry: Entry) -> dict[str, str]:
    request = entry.request
    return {
        DIGEST: entry.digest,
        "commit": entry.commit or "none",
        "dirty": str(entry.dirty).lower(),
        "lineage": entry.lineage,
        "data_window": request["data_window"],
        "test_window": request["test_window"],
        **_training(request),
        "params_hash": request["params_hash"],
        "department": request["department"],
        "objective": request["objective"],
        **keys.dag_run(),
    }


def _training(request: dict[str, Any]) -> dict[str, str]:
    """When it was learnt from, and of a task trained anew from which bundle (`backbone`: from none)."""
    anew = request.get("retrained")
    told = {"retrained_from": anew["init"] or "backbone"} if anew else {}
    return {**({"training_window": request["training_window"]} if "training_window" in request else {}), **told}


def description(card: str, entry: Entry, run_id: str, before: str = "") -> str:
    """The card with a lineage section, within what MLflow's database holds; `before`: what stood there.

    A verdict that a gate has put there stays, and so does what monitor says of it.
    """
    dirty = ", **with changes that are not committed**" if entry.dirty else ""
    rooms = f"`card@{entry.name}` and what it rests on, {len(entry.stages)} stages"
    lineage = (
        f"Commit `{entry.commit or 'none'}`{dirty}; lineage `{entry.lineage}` over the dvc.lock entries of "
        f"{rooms if entry.stages else 'no stage (the rooms were run by hand)'}; MLflow run `{run_id}`."
    )
    text = page.put(card, "Lineage", lineage)
    for title in ("Verdict", page.LIVE):
        if told := page.get(before, title):
            text = page.put(text, title, told, before=page.RESULTS)
    return page.fit(text, DESCRIPTION_LIMIT)


def _nominate(tracking: Tracking, name: str) -> None:
    """`candidate` is the newest version, unless that one serves or served; older ones that wait are superseded."""
    versions = tracking.versions(name)
    aliases = tracking.aliases(name)
    serving = {number for alias, number in aliases.items() if alias != CANDIDATE}
    newest = str(versions[-1].version)
    if newest in serving:
        return
    if aliases.get(CANDIDATE) != newest:
        tracking.point(name, CANDIDATE, newest)
    for older in versions[:-1]:
        if str(older.version) not in serving and "superseded" not in older.tags:
            tracking.describe(older, older.description, {"superseded": f"by version {newest}"})
