"""What a card says of a task of pictures or messages, in Markdown."""

from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.core.params import Source, Task
from pipelines.models.evaluation.words import number
from pipelines.models.items import questions

FEW = 50
"""Annotated training items of a label, below which a card warns of it."""
SPLITS = {"train": "trained on", "validation": "chosen on", "test": "tested on"}


def what(task: Task, source: Source, config: Mapping[str, Any], city: str) -> str:
    """For whom it is, and what it does with what."""
    one = "picture" if task.modality == "image" else "message"
    does = questions.load(task.objective).ACT.format(names=_listed(config["names"]))
    seen = (
        f"seen in {config['size']} × {config['size']} pixels"
        if "size" in config
        else f"read in {config['max_tokens']} tokens"
    )
    return (
        f"For the **{task.department}** department of {city}. It {does} a {one} of `{task.target.source}` "
        f"({source.about or source.department}), {seen}."
    )


def _listed(names: Any) -> str:
    *some, last = (f"`{name}`" for name in names)
    return f"{', '.join(some)} and {last}" if some else last


def data(source: str, report: Mapping[str, Any], evaluation: Mapping[str, Any]) -> str:
    """What came, what was put aside and why, what was masked, and how many of each label there are in each part."""
    reasons = sorted(((k, v) for k, v in report.get("reasons", {}).items() if v), key=lambda r: (-r[1], r[0]))
    told = ", ".join(f"{reason} {n:,}" for reason, n in reasons).replace("_", " ")
    why = f" ({told})" if told else ""
    said = (
        f"Of {number(report.get('records'))} items of `{source}` {number(report.get('quarantined'))} are in quarantine"
    )
    lines = [f"{said}{why}."]
    masked = report.get("masked") or {}
    hidden = [f"{kind} {n:,}" for part in ("found", "files") for kind, n in sorted(masked.get(part, {}).items()) if n]
    if hidden:
        lines.append(f"Personal data masked before anything was written: {', '.join(hidden).replace('_', ' ')}.")
    parts = evaluation.get("data") or {}
    names = list(next(iter(parts.values()))["labels"]) if parts else []
    rows = [f"| annotated | items | groups | {' | '.join(names)} |", "|---|--:|--:|" + "--:|" * len(names)]
    for split in (s for s in SPLITS if s in parts):
        part = parts[split]
        counts = " | ".join(f"{part['labels'][name]:,}" for name in names)
        rows.append(f"| {SPLITS[split]} | {part['items']:,} | {part['groups']:,} | {counts} |")
    after = "Near-duplicates are one group, and lie in one part. What is in quarantine took no part."
    return "\n\n".join([*lines, "\n".join(rows), after])


def limits(task: Task, source: Source, evaluation: Mapping[str, Any]) -> Iterator[str]:
    yield f"An aid to the people of {task.department}: it says what is likely, not what to do."
    train = (evaluation.get("data") or {}).get("train", {}).get("labels", {})
    if few := [f"`{name}` ({n})" for name, n in train.items() if n < FEW]:
        yield f"Few annotated examples of {', '.join(few)}: what it says of them is least certain."
    if task.modality == "image":
        yield "Made for the views of its training data: another camera, height or weather is untested."
    else:
        languages = evaluation.get("slices", {}).get("language", {})
        known = f" ({', '.join(languages)})" if languages else ""
        yield f"Made for the languages of its training data{known}, and for messages written as those were."
    if task.objective == "locate":
        yield "Counts are of boxes it is sure enough of: things that hide one another are counted too few."
    if source.read.connector == "simulator":
        yield "Its data are simulated: these figures say nothing of a real city."
