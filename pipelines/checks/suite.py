"""The contract as Great Expectations suites over aggregate frames, their verdict, and Data Docs to open.

Each frame (batch, days, sensors, kinds, schema) has its own suite. A critical expectation that fails breaks the
batch; a warning is reported. Flags were computed before: nothing here looks at single records.
"""

import datetime as dt
import html
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.checks.profile import Profile
from pipelines.core import files
from pipelines.core.params import Source

Rows = list[dict[str, Any]]
FRAMES: dict[str, dict[str, str]] = {
    "schema": {"file": "str", "column": "str", "expected": "str", "found": "str"},
    "batch": {"fraction_quarantined": "f8", "hours_since_newest": "f8", "longest_gap_hours": "f8", "repeats": "i8"},
    "kinds": {"kind": "str", "raw": "i8", "validated": "i8", "low": "f8", "high": "f8"},
    "sensors": {"sensor": "str", "latitude": "f8", "longitude": "f8", "coverage": "f8"},
    "days": {"day": "str", "raw": "i8", "validated": "i8", "quarantined": "i8", "coverage": "f8"},
}


@dataclass(frozen=True)
class Check:
    """One expectation: GX's class name and arguments, and how to say that it failed, given the frame's rows."""

    frame: str
    expectation: str
    arguments: dict[str, Any]
    tell: Callable[[Rows], str]
    critical: bool = True


@dataclass(frozen=True)
class Results:
    """What GX found: `failures` break the batch, worst first; `pages` are GX's own results by frame."""

    counts: dict[str, int]
    failures: list[str]
    warnings: list[str]
    pages: dict[str, Any]


def checks(source: Source) -> list[Check]:
    """The contract, in the order in which failures are told."""
    contract = source.contract
    box, least, most = contract.bounds, contract.coverage, contract.max_quarantined
    hours = {name: getattr(contract, name).total_seconds() / 3600 for name in ("freshness", "max_gap")}

    def share(name: str, rows: Rows, limit: float) -> str:
        row = min((r for r in rows if r["coverage"] < limit), key=lambda r: r["coverage"])
        more = sum(r["coverage"] < limit for r in rows) - 1
        also = f" (and {more} more {name}s below)" if more else ""
        return f"coverage of {name} {row[name]} is {_percent(row['coverage'])}, contract asks {_percent(limit)}{also}"

    def schema(rows: Rows) -> str:
        r = rows[0]
        if r["column"] == "*":
            return f"schema of {len({x['file'] for x in rows})} day file(s) is broken: {r['file']} is unreadable"
        return (
            f"schema of {len({x['file'] for x in rows})} day file(s) is broken: {r['file']}: column {r['column']} "
            f"is {r['found']}, expected {r['expected']}"
        )

    def silent(rows: Rows) -> str:
        return "no record of kind " + ", ".join(r["kind"] for r in rows if not r["raw"]) + " arrived"

    def outside(rows: Rows) -> str:
        found = [r["sensor"] for r in rows if not _inside(r, box)]
        return f"{len(found)} sensor(s) stand outside the contract's bounds, such as {', '.join(found[:3])}"

    def extra(rows: Rows) -> str:
        return "undeclared kinds arrived: " + ", ".join(r["kind"] for r in rows if r["kind"] not in source.kinds)

    def column(name: str, **limits: Any) -> dict[str, Any]:
        return {"column": name, **limits}

    between, lowest, highest = (
        "ExpectColumnValuesToBeBetween",
        "ExpectColumnMinToBeBetween",
        "ExpectColumnMaxToBeBetween",
    )
    found = [
        Check("schema", "ExpectTableRowCountToEqual", {"value": 0}, schema),
        Check("kinds", between, column("raw", min_value=1), silent),
        Check(
            "batch",
            highest,
            column("fraction_quarantined", max_value=most),
            lambda rows: (
                f"{_percent(rows[0]['fraction_quarantined'])} of the records are in quarantine, "
                f"contract allows {_percent(most)}"
            ),
        ),
        Check(
            "batch",
            highest,
            column("hours_since_newest", max_value=hours["freshness"]),
            lambda rows: (
                f"the newest valid record is {rows[0]['hours_since_newest']:.1f} h older than the window's end, "
                f"contract allows {hours['freshness']:g} h"
            ),
        ),
        Check(
            "sensors",
            between,
            column("coverage", min_value=least.sensor),
            lambda rows: share("sensor", rows, least.sensor),
        ),
        Check("days", between, column("coverage", min_value=least.day), lambda rows: share("day", rows, least.day)),
        Check("sensors", "ExpectColumnValuesToBeUnique", column("sensor"), lambda rows: "sensor ids are given twice"),
        Check(
            "batch",
            highest,
            column("repeats", max_value=0),
            lambda rows: f"{rows[0]['repeats']} validated records share time, sensor and kind with another",
        ),
        Check(
            "sensors", between, column("latitude", min_value=box.south, max_value=box.north), outside, critical=False
        ),
        Check("sensors", between, column("longitude", min_value=box.west, max_value=box.east), outside, critical=False),
        Check(
            "kinds", "ExpectColumnValuesToBeInSet", column("kind", value_set=list(source.kinds)), extra, critical=False
        ),
        Check(
            "batch",
            highest,
            column("longest_gap_hours", max_value=hours["max_gap"]),
            lambda rows: (
                f"the longest gap of a channel is {rows[0]['longest_gap_hours']:.1f} h, "
                f"contract tolerates {hours['max_gap']:g} h"
            ),
            critical=False,
        ),
    ]
    for kind, spec in source.kinds.items():
        only = {"row_condition": f'kind=="{kind}"', "condition_parser": "pandas"}
        low, high = spec.range
        said = f"validated {kind} leaves its range [{low:g}, {high:g}]"
        found += [
            Check("kinds", lowest, column("low", min_value=low, **only), _always(said)),
            Check("kinds", highest, column("high", max_value=high, **only), _always(said)),
        ]
    return found


def judge(name: str, source: Source, found: Profile, schema: Rows) -> Results:
    """Run the suites. `schema`: what is wrong with the raw files' columns."""
    labels = {kind for kind, spec in source.kinds.items() if spec.label}
    rows = {
        "schema": schema,
        "batch": [found.batch],
        "kinds": [k for k in found.kinds if k["raw"] or k["kind"] not in labels],  # labels may come late
        "sensors": found.sensors,
        "days": found.days,
    }
    return run(name, FRAMES, checks(source), rows)


def run(name: str, frames: dict[str, dict[str, str]], every: list[Check], rows: dict[str, Rows]) -> Results:
    """Judge frames, given as columns with their types, by `every` check on them."""
    import great_expectations as gx
    import pandas as pd

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    assets = context.data_sources.add_pandas("cityloop")
    failures: list[tuple[int, str]] = []
    warnings: list[tuple[int, str]] = []
    pages, passed = {}, 0
    for frame, columns in frames.items():
        mine = [check for check in every if check.frame == frame]
        table = pd.DataFrame({c: pd.Series([r.get(c) for r in rows[frame]], dtype=t) for c, t in columns.items()})
        batch = assets.add_dataframe_asset(frame).add_batch_definition_whole_dataframe("window")
        suite = gx.ExpectationSuite(
            name=f"{name} {frame}",
            expectations=[
                getattr(gx.expectations, c.expectation)(
                    **c.arguments, severity="critical" if c.critical else "warning", meta={"check": i}
                )
                for i, c in enumerate(mine)
            ],
        )
        verdict = batch.get_batch({"dataframe": table}).validate(suite, result_format="SUMMARY")
        for result in sorted(verdict.results, key=lambda r: r.expectation_config.meta["check"]):
            passed += bool(result.success)
            if not result.success:
                check = mine[result.expectation_config.meta["check"]]
                (failures if check.critical else warnings).append((every.index(check), check.tell(rows[frame])))
            result.result = json.loads(files.to_json(result.result))  # its renderers choke on numpy numbers
        verdict.meta.get("batch_markers", {}).pop("ge_load_time", None)
        pages[frame] = verdict
    counts = {"passed": passed, "failed": len(failures), "warnings": len(warnings)}
    return Results(counts, _said(failures), _said(warnings), pages)


def _always(text: str) -> Callable[[Rows], str]:
    return lambda rows: text


def _said(found: list[tuple[int, str]]) -> list[str]:
    return list(dict.fromkeys(text for _, text in sorted(found)))


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _inside(row: dict[str, Any], box: Any) -> bool:
    lat, lon = row["latitude"], row["longitude"]
    return (lat is None or box.south <= lat <= box.north) and (lon is None or box.west <= lon <= box.east)


STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:70em;color:#222}
table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:.3em .6em;text-align:left;vertical-align:top}
.fail{color:#a00}.hide,.modal{display:none}
nav a{margin-right:1em}ul{list-style:none;padding-left:0}"""


def write_docs(folder: Path, results: Results, end: dt.datetime) -> None:
    """GX's Data Docs, a page a frame beside an index; nothing in them is fetched from the network."""
    from great_expectations.render.renderer import ValidationResultsPageRenderer
    from great_expectations.render.view import DefaultJinjaPageView

    links = "".join(f'<a href="{frame}.html">{frame}</a>' for frame in ("index", *results.pages))
    for frame, verdict in results.pages.items():
        page = DefaultJinjaPageView().render(ValidationResultsPageRenderer().render(verdict))
        files.write_bytes(folder / f"{frame}.html", _offline(page, links).encode())
    verdict = "broken" if results.failures else "fit"
    told = "".join(f'<li class="fail">broken: {html.escape(text)}</li>' for text in results.failures)
    told += "".join(f"<li>warning: {html.escape(text)}</li>" for text in results.warnings)
    counts = ", ".join(f"{n} {word}" for word, n in results.counts.items())
    body = f"<h1>Window to {end:%Y-%m-%d %H:%M} UTC: {verdict}</h1><p>Expectations: {counts}</p><ul>{told}</ul>"
    head = f'<!DOCTYPE html><html><head><meta charset="utf-8"><style>{STYLE}</style></head>'
    files.write_bytes(folder / "index.html", f"{head}<body><nav>{links}</nav>{body}</body></html>\n".encode())


def _offline(page: str, links: str) -> str:
    """GX's page without what it would load from elsewhere, with our plain style and links to the other frames."""
    page = re.sub(r"<script\b.*?</script>|<img\b[^>]*>|<link\b[^>]*>", "", page, flags=re.DOTALL)
    page = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "part", page)  # random names of collapsed parts
    page = page.replace("</head>", f"<style>{STYLE}</style></head>", 1)
    return re.sub(r"(<body\b[^>]*>)", rf"\1<nav>{links}</nav>", page, count=1)
