"""What becomes of a `cityloop` command's answer: XCom, events of assets, links; red, retried or skipped."""

import json
import os
import re
from collections.abc import Container, Sequence
from typing import Any

import attrs
from airflow.sdk import Asset, BaseOperatorLink, Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from cityloop_airflow import lineage

REASON = "reason"
"""XCom with why a task was skipped."""
FINAL = (3, 4)
"""Exit codes that no retry changes: data too broken to use; refused by gate, reviewers or servers."""
NOTHING_WAITS = "no version is its candidate"
"""What a command says when there is nothing to judge: an event came twice, or somebody was faster."""
_TOLD = ("run", "commit", "windows", "task", "version", "digest")


@attrs.define()
class VersionLink(BaseOperatorLink):
    """To the model version's page in MLflow."""

    name = "MLflow version"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Told by the task when it ends; Airflow keeps it as an XCom."""
        return str(_of(operator.said, "url"))


@attrs.define()
class CommitLink(BaseOperatorLink):
    """To the commit on `live`, where the city's git has web pages: CITYLOOP_COMMIT_URL, else as CITYLOOP_GIT has it."""

    name = "Commit"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """As that of VersionLink."""
        commit = _of(operator.said, "commit")
        base = os.environ.get("CITYLOOP_COMMIT_URL") or re.sub(
            r"(?:\.git)?/?$", "/commit/", os.environ.get("CITYLOOP_GIT", ""), count=1
        )
        return f"{base}{commit}" if commit and re.match(r"https?://[^@]+$", base) else ""


def parsed(line: str) -> Any:
    """The JSON object or list in a line; None where it is something else."""
    if line[:1] not in ("{", "["):
        return None
    try:
        return json.loads(line)
    except ValueError:
        return None


class Partly(AirflowFailException):
    """The command did its work, but a task before it failed; people are told of that one."""


class Answers:
    """Part of an operator: settles what a command said, by its exit code."""

    said: Any = None
    """The command's result, parsed."""
    operator_extra_links = (VersionLink(), CommitLink())
    read: dict[str, str] = {}  # noqa: RUF012 (replaced, never changed)
    """Path → hash of what this task read, where lineage is told."""
    needs: tuple[str, ...] = ()
    after_failure_of: str | None = None

    def due(self, context: Context) -> None:
        """Raises AirflowSkipException where this task is for when another one fails, and that one did not."""
        other = self.after_failure_of
        if other and self.states(context, [other]).get(other) != "failed":
            raise AirflowSkipException(f"{other} did not fail")

    def settled(self, context: Context, code: int | None, words: str, skip: Container[int] = ()) -> Any:
        """The result, as XCom and in the events of outlets. Raises what a failed or skipped task raises."""
        if code in skip or (code and NOTHING_WAITS in words):
            self.leave(context, reason(self.said, words))
        if code in FINAL:
            raise AirflowFailException(f"{reason(self.said, words)} (exit code {code}: no retry would change it)")
        if code:
            raise AirflowException(f"{reason(self.said, words)} (exit code {code})")
        self._complete(context)
        if lineage.outs(self.said) and lineage.wanted():
            self.read = lineage.read_by(context)
        for asset in self._assets():
            context["outlet_events"][asset].extra = self._extra(context)
        return self.said if self.said is not None else words

    def leave(self, context: Context, why: str) -> None:
        """Skip this task and what follows, with the reason in the log and as XCom. Raises AirflowSkipException."""
        context["ti"].xcom_push(key=REASON, value=why)
        if self.said is not None:
            context["ti"].xcom_push(key="return_value", value=self.said)
        raise AirflowSkipException(why)

    def states(self, context: Context, task_ids: Sequence[str]) -> dict[str, str]:
        """Task → its state in this DAG run; of mapped ones, where this one is mapped, that of the same index."""
        ti = context["ti"]
        mapped = {"map_index": ti.map_index} if ti.map_index >= 0 else {}
        found = ti.get_task_states(ti.dag_id, task_ids=list(task_ids), run_ids=[ti.run_id], **mapped)
        suffix = f"_{ti.map_index}" if mapped else ""
        return {name.removesuffix(suffix): state for name, state in found.get(ti.run_id, {}).items()}

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """Asked by Airflow's OpenLineage provider."""
        assets = [asset.uri for asset in self._assets()]
        return lineage.facets(self.read, lineage.outs(self.said), assets, _of(self.said, "commit"))

    def _assets(self) -> list[Asset]:
        return [outlet for outlet in self.outlets if isinstance(outlet, Asset)]  # type: ignore[attr-defined]

    def _complete(self, context: Context) -> None:
        """Raises Partly where a task in `needs` did not succeed: the run is red, and no asset is new."""
        states = self.states(context, self.needs) if self.needs else {}
        missing = [f"{n} ({states.get(n)})" for n in self.needs if states.get(n) not in ("success", "skipped")]
        if missing:
            context["ti"].xcom_push(key="return_value", value=self.said)
            commit = _of(self.said, "commit")
            done = f"what succeeded is on live, at {commit[:10]}" if commit else "it did its own work"
            raise Partly(f"{done}; red because of {', '.join(missing)}")

    def _extra(self, context: Context) -> dict[str, Any]:
        """For whoever is woken by the event: which run, which commit, which window of data."""
        merged = context["ti"].xcom_pull(task_ids="merge") if "merge" in context["dag"].task_ids else None
        known = {**(merged if isinstance(merged, dict) else {}), **(self.said if isinstance(self.said, dict) else {})}
        extra = {key: known[key] for key in _TOLD if key in known}
        extra["window"] = extra.pop("windows", {})
        return {**extra, "dag_run": f"{context['ti'].dag_id}/{context['ti'].run_id}"}


def reason(said: Any, words: str) -> str:
    """Why, in one line: the command's own."""
    if said == []:
        return "nothing to do: every stage is up to date"
    return str(_of(said, "why") or words.removeprefix("error: ") or "it said nothing")


def _of(said: Any, key: str) -> str:
    return str(said.get(key) or "") if isinstance(said, dict) else ""
