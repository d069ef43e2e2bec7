"""What a champion's own page in the registry tells of how it does: section `Live`, and the report among its run's
artifacts.

The card is as it was reviewed; a release that is never asked again has a page that no longer changes.
"""

from typing import Any

from pipelines.core import files, log
from pipelines.core.errors import UserError
from pipelines.core.paths import Paths
from pipelines.core.tracking import DESCRIPTION_LIMIT, configured, connect
from pipelines.models.evaluation import words
from pipelines.release import page
from pipelines.watch.kept import Kept

LAST = "shown.json"
"""Which state of things the registry was told last: it is asked no more often than there is something new."""
REPORT = "monitor/report.html"


def tell(paths: Paths, kept: Kept, glance: dict[str, Any], report: bytes) -> None:
    """Once a day of data, and when the decision or the champion is another. A registry that cannot be reached is told
    next time: nothing that monitors fails for it."""
    about = {"champion": glance["champion"], "day": glance["until"][:10], "decision": glance["decision"]}
    if not glance["champion"] or not configured(paths) or kept.read(LAST) == about:
        return
    try:
        with connect(paths) as tracking:
            version = tracking.version(kept.task, glance["champion"]) if tracking.known(kept.task) else None
            if version is not None:
                tracking.client.log_text(version.run_id, report.decode(), REPORT)
                text = page.put(version.description or "", page.LIVE, section(glance), before=page.RESULTS)
                tracking.describe(version, page.fit(text, DESCRIPTION_LIMIT), {})
    except UserError as error:
        log.logger.warning("monitor %s: the champion's page in MLflow is not brought up to date: %s", kept.task, error)
        return
    kept.write(LAST, files.to_json(about))


def section(glance: dict[str, Any]) -> str:
    """Markdown."""
    week, unit = glance["week"], f" {glance['unit']}" if glance["unit"] else ""
    told = f"Until {glance['until'][:10]}: {glance['decision'] or 'no decision yet'}."
    if week:
        gate, frozen = words.number(glance["gate"]), words.number(glance["frozen_test"])
        told += (
            f" {words.name(glance['metric'])} {words.number(week['model'])}{unit}, {week['from']} to {week['until']} "
            f"(gate {gate}, frozen test {frozen}); the truth has come for {week['coverage'] or 0:.0%} of the answers."
        )
    return "\n\n".join([told, *glance["reasons"][:1], f"More: the run's artifact `{REPORT}`."])
