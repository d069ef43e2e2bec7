"""Every task is one `cityloop` command: here through Bash, or in a pod where CITYLOOP_RUNNER=kubernetes says so."""

import contextlib
import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from airflow.providers.standard.hooks.subprocess import SubprocessHook, SubprocessResult
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import Asset, AssetAlias, Context, TriggerRule

from cityloop_airflow import city
from cityloop_airflow.answer import Answers, parsed
from cityloop_airflow.kinds import KINDS

RUNNER = "CITYLOOP_RUNNER"
GRACE_S = 45
"""For a training to write its checkpoint once it is told to end. Airflow's own patience is `[core]
killed_task_cleanup_time`."""
MOST = 150
"""Characters of a run's name."""
LONGEST = 2000
"""Characters of a line in the log; a result with a whole card in it is read as XCom."""
DAG_RUN = {"CITYLOOP_DAG_RUN": "{{ dag.dag_id }}/{{ run_id }}"}
"""Commits, versions and the ledger name it."""


class Said(SubprocessHook):
    """Logs what a command says and keeps its result, the last line that is JSON, apart from the last of the others."""

    result: Any = None

    def run_command(
        self, command: list[str], env: dict[str, str] | None = None, output_encoding: str = "utf-8",
        cwd: str | None = None,
    ) -> SubprocessResult:  # fmt: skip
        """As SubprocessHook's; a command that is cut off, as by its time limit, is given GRACE_S to end well."""
        self.log.info("Running command: %s", command[-1])
        process = self.sub_process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=cwd, env=env, start_new_session=True
        )
        last = ""
        try:
            for raw in process.stdout or ():
                line = raw.decode(output_encoding, errors="backslashreplace").rstrip()
                self.log.info("%s", line if len(line) < LONGEST else f"{line[:LONGEST]}…")
                if (found := parsed(line)) is not None:
                    self.result = found
                elif line:
                    last = line
            process.wait()
        except BaseException:
            self.send_sigterm()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=GRACE_S)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
        self.log.info("Command exited with return code %s", process.returncode)
        return SubprocessResult(exit_code=process.returncode, output=last)

    def send_sigterm(self) -> None:
        """To the command alone: it passes it on to what it started, and waits for that."""
        if self.sub_process and self.sub_process.poll() is None:
            self.log.info("Sending SIGTERM to the command")
            self.sub_process.terminate()


class Cityloop(Answers, BashOperator):
    """One `cityloop` command in Bash. Words are quoted once they are rendered: no value is ever read by the shell.

    words: of the command, templated; those that render to nothing are left out. tail: a piece of shell after them.
    """

    template_fields = ("words", "env")
    template_ext = ()
    template_fields_renderers = {"env": "json"}  # noqa: RUF012 (as Airflow has it)

    def __init__(
        self, *, words: Sequence[str], tail: str = "", skip_on: Sequence[int] = (), needs: Sequence[str] = (),
        after_failure_of: str | None = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(bash_command="", env=dict(DAG_RUN), append_env=True, skip_on_exit_code=[*skip_on], **kwargs)
        self.words, self.tail, self.needs, self.after_failure_of = list(words), tail, tuple(needs), after_failure_of

    @cached_property
    def subprocess_hook(self) -> Said:
        return Said()

    def get_env(self, context: Context) -> dict[str, str]:
        """This process's, without what is Airflow's alone: its secrets, and the way to these modules."""
        own = str(city.HERE / "dags")
        env = {k: v for k, v in super().get_env(context).items() if not k.startswith("AIRFLOW__")}
        if path := os.pathsep.join(p for p in env.pop("PYTHONPATH", "").split(os.pathsep) if p and p != own):
            env["PYTHONPATH"] = path
        return {"CITYLOOP_ROOT": str(city.root()), **env}

    def execute(self, context: Context) -> Any:
        """Run it. Raises AirflowException, AirflowFailException or AirflowSkipException by its exit code."""
        self.due(context)
        line = f"exec {shlex.join(['cityloop', *filter(None, self.words)])} {self.tail}".rstrip()
        done = self.subprocess_hook.run_command([shutil.which("bash") or "bash", "-c", line], self.get_env(context))
        self.said = self.subprocess_hook.result
        return self.settled(context, done.exit_code, done.output, self.skip_on_exit_code)


def command(
    task_id: str, *words: Any, kind: str | None = None, tail: str = "", skip_on: Sequence[int] = (),
    outlets: Sequence[Asset | AssetAlias] = (), needs: Sequence[str] = (), after_failure_of: str | None = None,
    trigger_rule: TriggerRule = TriggerRule.ALL_SUCCESS, base: type[Answers] | None = None, **kwargs: Any,
) -> Any:  # fmt: skip
    """The task that runs `cityloop WORDS`, as its kind says: pool, retries, time limit, page.

    skip_on: exit codes that skip it and what follows. needs: tasks without whose success it is red once it has done its
    work. base: a part to put in front of the operator.
    """
    of = KINDS[kind or task_id]
    runner = operator()
    made = type(base.__name__, (base, runner), {}) if base else runner
    return made(
        task_id=task_id, words=words, tail=tail, skip_on=skip_on, needs=needs, after_failure_of=after_failure_of,
        outlets=list(outlets), trigger_rule=trigger_rule, pool=of.pool, retries=of.retries, doc_md=of.page,
        execution_timeout=of.timeout, **kwargs,
    )  # fmt: skip


def operator() -> type[Answers]:
    """The operator of this installation."""
    if os.environ.get(RUNNER) == "kubernetes":
        from cityloop_airflow.pods import CityloopPod

        return CityloopPod
    return Cityloop


def run_name(dag_id: str, run_id: str) -> str:
    """A DAG run's name among the project's runs, as it can stand in a git ref."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", f"{dag_id}-{run_id}").strip("-")
    if len(name) <= MOST:
        return name
    return f"{name[:MOST]}-{hashlib.sha256(run_id.encode()).hexdigest()[:8]}"


def reviewer(user: Any) -> str:
    """Whoever answered Airflow's form, as a name that can stand in a tag."""
    name = (user or {}).get("name") or (user or {}).get("id") or "airflow"
    return re.sub(r"[^A-Za-z0-9_.@-]+", "-", str(name)).strip("-_.@")[:64] or "airflow"
