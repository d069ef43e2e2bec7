"""bundle + metrics → cards/<task>/: the model card a reviewer reads, and what `register` needs to know.

The stage is pure: equal inputs give equal bytes. It names no commit and no lineage, because DVC may
restore it from its run cache under another upstream closure; `register` adds those, from where it is run.
"""

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.core import files, log, params
from pipelines.core.errors import UserError
from pipelines.core.params import Anew, Params, Select, Source, Task
from pipelines.core.paths import Paths
from pipelines.models import objectives
from pipelines.models.evaluation import words
from pipelines.models.evaluation.words import number
from pipelines.models.items import words as items
from pipelines.release import bundle

FORMAT = 1


@dataclass(frozen=True)
class Facts:
    """Everything a card speaks of."""

    name: str
    digest: str
    bytes: int
    city: str
    task: Task
    kinds: tuple[str, ...]
    inputs: dict[str, tuple[str, ...]]
    """Kinds by source of what is read beside the target up to now, and of what is known ahead."""
    ahead: dict[str, tuple[str, ...]]
    sources: dict[str, Source]
    until: dict[str, dt.datetime]
    dates: tuple[dt.datetime, dt.datetime, dt.datetime]
    """When training, validation and test begin."""
    anew: Anew | None
    """What it was trained anew from and on, if it was."""
    config: dict[str, Any]
    evaluation: dict[str, Any]
    finetune: dict[str, Any]
    pretrain: dict[str, Any]
    validation: dict[str, dict[str, Any]]
    plots: tuple[str, ...]


def run(key: str, *, root: Path = Path()) -> None:
    """Write card.md and request.json of task `key`. Raises UserError when the bundle or a metrics file is missing."""
    paths = Paths(root)
    with log.room("card", key) as told:
        facts = gather(params.load(root), key, paths)
        files.write_bytes(paths.card(key) / "card.md", markdown(facts).encode())
        files.write_json(paths.card(key) / "request.json", request(facts))
        told["digest"] = facts.digest[:12]


def gather(city: Params, name: str, paths: Paths) -> Facts:
    """Read what the stages before left behind."""
    task = city.trained(name)
    sources = list(dict.fromkeys([task.target.source, *(chosen.source for chosen in task.inputs)]))
    digest = bundle.verify(paths.task(name))
    plots = paths.plots("evaluate", name)
    return Facts(
        name=name,
        digest=digest,
        bytes=sum(f["size"] for f in files.read_json(paths.task(name) / bundle.MANIFEST)["files"].values()),
        city=city.city.name,
        task=task,
        kinds=city.kinds(task.target),
        inputs=_kinds(city, [chosen for chosen in task.inputs if not chosen.ahead]),
        ahead=_kinds(city, [chosen for chosen in task.inputs if chosen.ahead]),
        sources={s: city.source(s) for s in sources},
        until={s: city.window_end(s) for s in sources},
        dates=city.dates(name),
        anew=city.retrain.get(name),
        config=_read(paths.task(name) / "config.json"),
        evaluation=_read(paths.metrics("evaluate", name)),
        finetune=_read(paths.metrics("finetune", name)),
        pretrain={} if task.finetune.scratch else _read(paths.metrics("pretrain", task.backbone)),
        validation={s: _read(paths.metrics("validate", s)) for s in sources},
        plots=tuple(sorted(p.relative_to(plots).as_posix() for p in plots.rglob("*") if p.is_file())),
    )


def _kinds(city: Params, inputs: list[Select]) -> dict[str, tuple[str, ...]]:
    """Kinds by source."""
    found: dict[str, tuple[str, ...]] = {}
    for chosen in inputs:
        found[chosen.source] = (*found.get(chosen.source, ()), *city.kinds(chosen))
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        data: dict[str, Any] = files.read_json(path)
    except (FileNotFoundError, ValueError):
        raise UserError(f"{path}: missing or not JSON; a stage before `card` writes it: run dvc repro") from None
    return data


def request(facts: Facts) -> dict[str, Any]:
    """What `register` needs beside the files themselves."""
    backbone = {k: v for k, v in facts.config["backbone"].items() if k in ("name", "sha256", "size")}
    block = flatten({"task": _plain(facts.task), "backbone": backbone})
    return {
        "format": FORMAT,
        "task": facts.name,
        "digest": facts.digest,
        "objective": facts.task.objective,
        "department": facts.task.department,
        "question": facts.task.question,
        "summary": first_line(facts),
        "backbone": None if facts.task.finetune.scratch else facts.task.backbone,
        "sources": list(facts.sources),
        "primary": facts.evaluation["primary"],
        "params": block,
        "params_hash": files.sha256_json(block),
        "metrics": _metrics(facts),
        "data_window": "; ".join(f"{s} {spec.start:%F}/{_day(facts.until[s])}" for s, spec in facts.sources.items()),
        "test_window": "{from}/{until}".format(**facts.evaluation["test"]),
        "test_from": facts.dates[2].isoformat(),
        "training_window": f"{_day(facts.dates[0])}/{_day(facts.dates[1])}",
        "retrained": facts.anew.plain() if facts.anew else None,
        "bundle_bytes": facts.bytes,
    }


def _metrics(facts: Facts) -> dict[str, float]:
    """MLflow groups its charts by what stands before the slash. Of the slices, those that every city has."""
    found = facts.evaluation
    tree: dict[str, Any] = {"test": found["model"]}
    tree |= {method: found[method] for method in words.methods(found) if method != "model"}
    tree["interval"] = found.get("interval")
    tree |= {group: found.get(group) for group in ("at", "coverage", "robustness")}
    tree["slice"] = {k: v for k, v in found.get("slices", {}).items() if k in ("regime", "level")}
    tree["finetune"] = {k: facts.finetune.get(k) for k in ("train", "validation")}
    tree["data"] = {
        source: {k: report.get(k) for k in ("records", "validated", "quarantined")}
        for source, report in facts.validation.items()
    }
    tree["size"] = {"parameters": facts.finetune.get("parameters"), "bundle_bytes": facts.bytes}
    flat = flatten(tree, "/")
    return {k: float(v) for k, v in flat.items() if isinstance(v, int | float) and not isinstance(v, bool)}


def flatten(tree: Any, separator: str = ".") -> dict[str, Any]:
    """A nested mapping as one level; lists become text."""

    def walk(node: Any, at: str) -> Iterator[tuple[str, Any]]:
        if isinstance(node, dict):
            for key in sorted(node):
                yield from walk(node[key], f"{at}{separator}{key}" if at else str(key))
        elif isinstance(node, list | tuple):
            yield at, ", ".join(str(item) for item in node)
        else:
            yield at, node

    return dict(walk(tree, ""))


def _plain(task: Task) -> dict[str, Any]:
    """A task's block with durations as they are written in params.yaml."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [plain(v) for v in value]
        return _span(value) if isinstance(value, dt.timedelta) else value

    block: dict[str, Any] = plain(task.model_dump())
    block["inputs"] = [f"{i['source']}: {', '.join(i['kinds']) or 'all'}" for i in block["inputs"]]
    return {k: v for k, v in block.items() if v is not None}


def markdown(facts: Facts) -> str:
    """The card. MLflow's list of versions shows its raw first line, so that is a plain sentence."""
    parts = [
        first_line(facts),
        f"# {facts.name}",
        _what(facts),
        "## Results on the frozen test",
        words.results(facts.evaluation),
        "## Data",
        _data(facts),
        "## Intended use and limits",
        "\n".join(f"- {limit}" for limit in _limits(facts)),
        "## Size and making",
        _making(facts),
        "## Plots and reports",
        _plots(facts),
        "## Review",
        "Set one of these tags on this version (key = value); an optional tag `review_note` says why.\n\n"
        f"    review.<your name> = approved:{facts.digest}\n    review.<your name> = rejected:{facts.digest}",
    ]
    return "\n\n".join(parts) + "\n"


def first_line(facts: Facts) -> str:
    """One sentence: the question, and the main metric beside the best baseline's."""
    return f"{facts.name} answers: {' '.join(facts.task.question.split())} {words.headline(facts.evaluation)}"


def _what(facts: Facts) -> str:
    if facts.task.modality != "series":
        return items.what(facts.task, facts.sources[facts.task.target.source], facts.config, facts.city)
    task, target, objective = facts.task, facts.sources[facts.task.target.source], objectives.of(facts.task)
    sensors = len({c["sensor"] for c in facts.config["channels"] if c["role"] == "target"})
    kinds = " and ".join(f"{k} ({target.kinds[k].unit})" for k in facts.kinds)
    inputs, ahead = (
        "; ".join(f"`{source}` ({', '.join(chosen)})" for source, chosen in group.items())
        for group in (facts.inputs, facts.ahead)
    )
    lines = [
        f"For the **{task.department}** department of {facts.city}. {facts.name} {objective.ACT} {kinds} at "
        f"{sensors} sensors of `{task.target.source}` ({target.about or target.department}), in steps of "
        f"{_span(target.step)} {objective.WHEN} {_span(task.horizon)}, from {_span(task.context)} of readings"
        f"{f' and from {inputs}' if inputs else ''}.",
    ]
    if ahead:
        lines.append(
            f"It is also told what {ahead} will be over those steps, where that is known or forecast. The figures "
            "below are with what was then measured: a forecast that errs makes it less exact."
        )
    if task.classes:
        ranges = ", ".join(str(edge) for edge in task.classes.edges)
        lines.append(f"Classes: {', '.join(task.classes.names)}, split at {ranges} of a sensor's reference value.")
    return "\n".join(lines)


def _data(facts: Facts) -> str:
    if facts.task.modality != "series":
        asked = facts.task.target.source
        return items.data(asked, facts.validation[asked], facts.evaluation)
    rows = [
        "| source | from | until | records | quarantined | coverage | longest gap | mostly quarantined for |",
        "|---|---|---|--:|--:|--:|--:|---|",
    ]
    for name, source in facts.sources.items():
        report = facts.validation[name]
        gap = report.get("gaps", {}).get("longest_h")
        cells = [
            *(number(v) for v in (report.get("records"), report.get("quarantined"))),
            number(report.get("coverage", {}).get("mean")),
            f"{number(gap)} h",
            ", ".join(f"{reason.replace('_', ' ')} {count:,}" for reason, count in _reasons(report)) or "–",
        ]
        rows.append(f"| {name} | {source.start:%F} | {_day(facts.until[name])} | {' | '.join(cells)} |")
    start, validation, test = (_day(when) for when in facts.dates)
    return "\n".join(rows) + (
        f"\n\nTrained on {start} to {validation}, chosen on the data up to {test}, scored on what follows. "
        "Quarantined records took no part."
    )


def _reasons(report: dict[str, Any]) -> list[tuple[str, int]]:
    """The three commonest."""
    return sorted(((k, v) for k, v in report.get("reasons", {}).items() if v), key=lambda r: (-r[1], r[0]))[:3]


def _limits(facts: Facts) -> Iterator[str]:
    target = facts.sources[facts.task.target.source]
    if facts.task.modality != "series":
        yield from items.limits(facts.task, target, facts.evaluation)
        return
    yield f"An aid to the people of {facts.task.department}: it says what is likely, not what to do."
    days = (facts.dates[1] - facts.dates[0]).days
    if days < 365:
        yield f"Trained on {days} days: it has not seen a whole year, so seasons and rare days are unknown to it."
    yield "Made for the sensors of its training data: one that came later is untested, and its answers say so."
    if facts.task.label:
        yield f"Its threshold was chosen on labels ({facts.task.label}) before the test; wrong labels count against it."
    if any(source.read.connector == "simulator" for source in facts.sources.values()):
        yield "Its data are simulated: these figures say nothing of a real city."


def _plots(facts: Facts) -> str:
    named = ", ".join(f"`{name}`" for name in facts.plots if not name.endswith(".json")) or "none"
    return (
        f"On the run's page, under artifacts: evaluation in `plots/evaluate/` ({named}), learning curves in "
        "`plots/finetune/` and `plots/pretrain/`, each source's data report in `plots/validate/` (open its HTML), and "
        "all figures in `metrics/`."
    )


def _making(facts: Facts) -> str:
    size = (
        f"{number(facts.finetune.get('parameters'))} parameters, {facts.bytes / 1e6:.2f} MB; digest `{facts.digest}`."
    )
    steps = facts.finetune.get("steps")
    train = facts.task.finetune
    how = "from scratch" if train.scratch else f"from backbone `{facts.task.backbone}`"
    if train.init:
        replayed = f", {100 * train.replay:.3g} % of each batch from before" if train.replay else ""
        how = f"from bundle `{train.init[:12]}` (on what came after its training{replayed})"
    if facts.anew:
        how += ", anew and by dates of its own (retrain.yaml; the commit on `live` that set them says why),"
    return (
        f"{size} Fine-tuned {how}{f' in {steps:,} steps' if isinstance(steps, int) else ''}. To make it again, at the "
        f"commit named under Lineage:\n\n    dvc pull && dvc repro card@{facts.name} && cityloop register {facts.name}"
    )


def _span(step: dt.timedelta) -> str:
    seconds = int(step.total_seconds())
    unit, size = next((u, s) for u, s in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)) if seconds % s == 0)
    return f"{seconds // size} {unit}"


def _day(moment: dt.datetime) -> str:
    return f"{moment:%F}" if moment.time() == dt.time() else f"{moment:%FT%RZ}"
