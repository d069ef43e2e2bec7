"""What a gate says of a candidate, and how a reviewer reads it."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from pipelines.models.evaluation.words import name as called
from pipelines.models.evaluation.words import number

FORMAT = 1
"""Of a verdict, and of what it follows from: with another one, every verdict is made anew."""


@dataclass(frozen=True)
class Condition:
    """One of the gate's. `value` in the unit that `limit` says; `detail`: a sentence with the numbers."""

    name: str
    passed: bool
    value: float | None
    limit: str
    detail: str


@dataclass(frozen=True)
class Verdict:
    """What the gate says of a candidate, by digest; champion None: there was none to compare with.

    scores: all metrics by method, `model` and the baselines; beside: those of `model` and `champion` where both answer;
    test: the window they are from.
    """

    task: str
    candidate: str
    champion: str | None
    key: str
    conditions: tuple[Condition, ...]
    primary: str | None = None
    higher_is_better: bool = False
    test: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    beside: dict[str, dict[str, float]] = field(default_factory=dict)
    enabled: bool = True

    @property
    def passed(self) -> bool:
        return bool(self.conditions) and all(c.passed for c in self.conditions)

    @property
    def failed(self) -> list[Condition]:
        return [c for c in self.conditions if not c.passed]

    @property
    def why(self) -> str:
        """The failed conditions in words; of a passed one, that it passed."""
        if not self.enabled:
            return self.conditions[0].detail
        return "; ".join(c.detail for c in self.failed) or f"all {len(self.conditions)} conditions met"

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "passed": self.passed, "format": FORMAT}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Verdict":
        names = {f.name for f in dataclasses.fields(cls)}
        conditions = tuple(Condition(**c) for c in data["conditions"])
        return cls(**{**{k: v for k, v in data.items() if k in names}, "conditions": conditions})


def section(verdict: Verdict, version: str | None = None) -> str:
    """The verdict in Markdown, for the version's page; `version`: the champion's, where the registry knows it."""
    if not verdict.enabled:
        return f"**Not judged**: {verdict.why}."
    failed = ["\n".join(f"- {c.detail}" for c in verdict.failed)] if verdict.failed else []
    rows = ["| condition | value | limit | |", "|---|--:|---|---|"]
    rows += [
        f"| {c.name} | {number(c.value)} | {c.limit} | {'ok' if c.passed else '**FAILED**'} |"
        for c in verdict.conditions
    ]
    return "\n\n".join([_headline(verdict, version), *failed, "\n".join(rows), *_beside(verdict)])


def _headline(verdict: Verdict, version: str | None) -> str:
    said = "Passed" if verdict.passed else "Failed"
    days = f" on the frozen test {verdict.test['from'][:10]} to {verdict.test['until'][:10]}" if verdict.test else ""
    days = days.removesuffix(" undated to undated")
    if verdict.champion is None:
        return f"**{said}**{days}; there is no champion yet."
    named = f"version {version} (`{verdict.champion[:12]}`)" if version else f"`{verdict.champion[:12]}`"
    return f"**{said}**{days}, against champion {named}."


def _beside(verdict: Verdict) -> list[str]:
    """All metrics of candidate and champion, where there is one to compare with."""
    if not verdict.beside:
        return []
    ours, theirs = verdict.beside["model"], verdict.beside["champion"]
    metrics = sorted(ours, key=lambda m: (m != verdict.primary, m))
    rows = [f"| on the same test | {' | '.join(called(m) for m in metrics)} |", "|---|" + "--:|" * len(metrics)]
    for who, scores in (("candidate", ours), ("champion", theirs)):
        rows.append(f"| {who} | {' | '.join(number(scores.get(m)) for m in metrics)} |")
    return ["\n".join(rows)]
