"""A person's yes: waited for without a worker, through tags in MLflow or Airflow's own form. Both end in `Reviewed`."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

from airflow.providers.standard.exceptions import HITLTimeoutError
from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from airflow.triggers.base import BaseTrigger, TriggerEvent

from cityloop_airflow import notify
from cityloop_airflow.answer import REASON, Answers
from cityloop_airflow.command import command

APPROVE, REJECT = "Approve", "Reject"
EVERY_S = 5.0
WATCHED = ("review.", "proof.", "superseded")


class ReviewTrigger(BaseTrigger):
    """Fires when what MLflow says about a version's review is not `seen`, or at `until` (seconds since 1970).

    seen: tags that matter, as an earlier event told them; and which version is the candidate. While MLflow is away it
    goes on asking. MLflow's address and account are those of the triggerer's own environment.
    """

    def __init__(self, task: str, version: str, digest: str, seen: dict[str, str], until: float) -> None:
        super().__init__()
        self.about = {"task": task, "version": version, "digest": digest, "seen": seen, "until": until}

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """As Airflow keeps it in its database."""
        return f"{type(self).__module__}.{type(self).__qualname__}", self.about

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """One event: {"said": …}, {"expired": true} or {"error": why}."""
        import httpx

        where = os.environ.get("MLFLOW_TRACKING_URI", "")
        if not where.startswith(("http://", "https://")):
            yield TriggerEvent({"error": f"the triggerer's MLFLOW_TRACKING_URI is {where!r}, not a server's address"})
            return
        away = False
        async with httpx.AsyncClient(base_url=where.rstrip("/"), timeout=10, **_account()) as client:
            while True:
                try:
                    said = await self._ask(client)
                except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
                    if not away:
                        self.log.warning("MLflow does not answer (%s: %s); asking on", type(error).__name__, error)
                    away = True
                else:
                    if away:
                        self.log.info("MLflow answers again")
                    away = False
                    if said != self.about["seen"]:
                        yield TriggerEvent({"said": said})
                        return
                left = self.about["until"] - time.time()
                if left <= 0:
                    yield TriggerEvent({"expired": True})
                    return
                await asyncio.sleep(min(EVERY_S, left))

    async def _ask(self, client: Any) -> dict[str, str]:
        """What there is to know; of reviews only those of this very digest."""
        about = {"name": self.about["task"], "version": self.about["version"]}
        found = await client.get("/api/2.0/mlflow/model-versions/get", params=about)
        if found.status_code == 404:
            return {"gone": "true"}
        tags = {t["key"]: t["value"] for t in found.raise_for_status().json()["model_version"].get("tags", [])}
        said = {key: value for key, value in tags.items() if key.startswith(WATCHED) and self._concerns(key, value)}
        model = await client.get("/api/2.0/mlflow/registered-models/get", params={"name": about["name"]})
        aliases = model.raise_for_status().json()["registered_model"].get("aliases", [])
        now = next((str(a["version"]) for a in aliases if a["alias"] == "candidate"), about["version"])
        return {**said, **({"candidate": now} if now != about["version"] else {})}

    def _concerns(self, key: str, value: str) -> bool:
        return not key.startswith("review.") or value.strip().endswith(f":{self.about['digest']}")


def _account() -> dict[str, Any]:
    """As MLflow's own clients take it from the environment."""
    user, password = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD")
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    account: dict[str, Any] = {"auth": (user, password or "")} if user else {}
    account |= {"headers": {"Authorization": f"Bearer {token}"}} if token and not user else {}
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS") == "true":
        account["verify"] = False
    elif path := os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH"):
        import ssl

        account["verify"] = ssl.create_default_context(cafile=path)
    return account


class Reviewed(Answers):
    """Part of an operator whose command is `cityloop review TASK --version V --json`: done when that says approved.

    While it says waiting the task is deferred. Rejected, superseded or expired: what follows is skipped.
    """

    expires: timedelta

    def execute(self, context: Context) -> Any:
        """Ask; then wait. Raises TaskDeferred or AirflowSkipException."""
        until = time.time() + self.expires.total_seconds()
        return self._judged(context, {}, until, first=True)

    def resumed(self, context: Context, event: dict[str, Any], until: float) -> Any:
        """Something was said, or the time is over: ask again."""
        if "error" in event:
            raise AirflowFailException(event["error"])
        return self._judged(context, event.get("said"), until)

    def _judged(self, context: Context, seen: dict[str, str] | None, until: float, first: bool = False) -> Any:
        """seen: None once it has expired."""
        said = super().execute(context)  # type: ignore[misc]
        if not isinstance(said, dict) or "decision" not in said:
            raise AirflowFailException(f"no decision in what the command said: {str(said)[:200]}")
        decision, by = said["decision"], ", ".join(said.get("by") or [])
        self.log.info("version %s, digest %s: %s %s", said["version"], said["digest"][:12], decision, by)  # type: ignore[attr-defined]
        if decision == "approved":
            return said
        if decision != "waiting":
            self.leave(context, f"version {said['version']}: {said.get('why') or f'{decision} by {by}'}")
        if seen is None:
            self.leave(context, f"version {said['version']} was not answered in {self.expires}: {said.get('why')}")
        if first:
            notify.waiting(context, said, self.expires)
        trigger = ReviewTrigger(said["task"], str(said["version"]), said["digest"], seen, until)
        self.defer(trigger=trigger, method_name="resumed", kwargs={"until": until})  # type: ignore[attr-defined]


def reviewed(task: str, *words: str, expires: timedelta) -> Any:
    """The task that waits for reviewers of a version of `task`, WORDS naming it."""
    made = command("review", "review", task, *words, "--json", base=Reviewed)
    made.expires = expires
    return made


class Form(HITLOperator):
    """Airflow's form. No answer in time: what follows is skipped, and the run is green."""

    def execute(self, context: Context) -> Any:
        """Show it; then wait, parked, without worker or triggerer."""
        said = context["ti"].xcom_pull(task_ids="card_of")
        if context["ti"].try_number == 1:
            notify.waiting(context, said if isinstance(said, dict) else {}, self.response_timeout or timedelta(0))
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """{chosen_options, params_input, responded_by_user, responded_at}. Raises AirflowSkipException."""
        try:
            return super().execute_complete(context, event)
        except HITLTimeoutError:
            why = f"nobody answered in {self.response_timeout}"
            context["ti"].xcom_push(key=REASON, value=why)
            raise AirflowSkipException(why) from None
