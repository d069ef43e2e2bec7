"""The contract of pictures and messages as Great Expectations suites over aggregate frames, and their verdict."""

from pipelines.checks.suite import Check, Results, Rows, run
from pipelines.core.params import Source
from pipelines.items.profile import Profile

FRAMES: dict[str, dict[str, str]] = {
    "schema": {"file": "str", "column": "str", "expected": "str", "found": "str"},
    "batch": {
        "validated": "i8", "fraction_quarantined": "f8", "hours_since_newest": "f8", "longest_gap_hours": "f8",
        "frozen": "i8", "unknown_labels": "i8",
    },
    "classes": {"kind": "str", "label": "str", "count": "i8", "share": "f8"},
    "cameras": {"camera": "str", "raw": "i8", "validated": "i8", "coverage": "f8"},
    "days": {"day": "str", "validated": "i8", "quarantined": "i8"},
}  # fmt: skip


def checks(source: Source) -> list[Check]:
    """The contract, in the order in which failures are told."""
    contract = source.contract
    hours = {name: getattr(contract, name).total_seconds() / 3600 for name in ("freshness", "max_gap")}
    between, highest, lowest = (
        "ExpectColumnValuesToBeBetween",
        "ExpectColumnMaxToBeBetween",
        "ExpectColumnMinToBeBetween",
    )

    def broken(rows: Rows) -> str:
        r = rows[0]
        said = "is unreadable" if r["column"] == "*" else f"has {r['column']} as {r['found']}, not {r['expected']}"
        return f"schema of {len({x['file'] for x in rows})} day file(s) is broken: {r['file']} {said}"

    def few(rows: Rows, limit: float, what: str) -> str:
        column = "count" if limit > 1 else "share"
        found = [f"{r['label']} ({r['count']})" for r in rows if r[column] < limit]
        return f"{what}: {', '.join(found[:8])}"

    found = [
        Check("schema", "ExpectTableRowCountToEqual", {"value": 0}, broken),
        Check("batch", lowest, {"column": "validated", "min_value": 1}, lambda rows: "no item is valid"),
        Check(
            "batch",
            highest,
            {"column": "fraction_quarantined", "max_value": contract.max_quarantined},
            lambda rows: (
                f"{100 * rows[0]['fraction_quarantined']:.3g} % of the items are in quarantine, "
                f"contract allows {100 * contract.max_quarantined:.3g} %"
            ),
        ),
        Check(
            "batch",
            highest,
            {"column": "hours_since_newest", "max_value": hours["freshness"]},
            lambda rows: (
                f"the newest valid item is {rows[0]['hours_since_newest']:.1f} h older than the window's end, "
                f"contract allows {hours['freshness']:g} h"
            ),
        ),
        Check(
            "batch",
            highest,
            {"column": "longest_gap_hours", "max_value": hours["max_gap"]},
            lambda rows: (
                f"the longest gap is {rows[0]['longest_gap_hours']:.1f} h, contract tolerates {hours['max_gap']:g} h"
            ),
            critical=False,
        ),
        Check(
            "batch",
            highest,
            {"column": "frozen", "max_value": 0},
            lambda rows: f"{rows[0]['frozen']} frames are of cameras that hung",
            critical=False,
        ),
        Check(
            "batch",
            highest,
            {"column": "unknown_labels", "max_value": 0},
            lambda rows: f"{rows[0]['unknown_labels']} items have labels that are not in params.yaml",
            critical=False,
        ),
    ]
    if source.kinds:
        found += [
            Check(
                "classes",
                between,
                {"column": "count", "min_value": 2},
                lambda rows: few(rows, 2, "classes with one item or none, from which nothing can be learnt and tested"),
                critical=False,
            ),
            Check(
                "classes",
                between,
                {"column": "share", "min_value": contract.balance},
                lambda rows: few(rows, contract.balance, f"classes with less than {100 * contract.balance:g} % of all"),
                critical=False,
            ),
        ]
    return found


def judge(name: str, source: Source, found: Profile, schema: Rows) -> Results:
    """Run the suites. `schema`: what is wrong with the raw files' columns."""
    rows: dict[str, Rows] = {
        "schema": schema,
        "batch": [found.batch],
        # A kind that nobody has annotated yet has no classes to be few of.
        "classes": [row for row in found.classes if row["any"]],
        "cameras": found.cameras,
        "days": found.days,
    }
    return run(name, FRAMES, checks(source), rows)
