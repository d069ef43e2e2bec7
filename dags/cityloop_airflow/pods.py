"""The same commands in pods: where CITYLOOP_RUNNER=kubernetes. Imported only then.

CITYLOOP_POD_TEMPLATE: the pod's template (default: infra/kubernetes/pod.yaml); its first container is the command's.
CITYLOOP_IMAGE: in place of the template's. CITYLOOP_GPU_NODES: labels of nodes with GPUs, `a=b,c=d`.
"""

import os
from collections.abc import Sequence
from typing import Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowException, AirflowSkipException
from kubernetes.client import models as k8s

from cityloop_airflow import city
from cityloop_airflow.answer import Answers
from cityloop_airflow.command import DAG_RUN
from cityloop_airflow.kinds import GPU

GPU_KIND, GPU_NODES = "nvidia.com/gpu", "nvidia.com/gpu.present=true"
SCRIPT = """
trap 'kill -TERM $command' TERM INT
cityloop "$@" {tail} >/tmp/result &
command=$!
wait $command; code=$?
while kill -0 $command 2>/dev/null; do wait $command; code=$?; done
cat /tmp/result
mkdir -p /airflow/xcom
line=$(tail -n 1 /tmp/result)
case "$line" in '{{'*|'['*) printf %s "$line" ;; *) printf null ;; esac >/airflow/xcom/return.json
exit $code
"""
"""Runs the command, passes SIGTERM on to it, and leaves its result where Airflow's sidecar looks."""


class CityloopPod(Answers, KubernetesPodOperator):
    """One `cityloop` command in a pod. Words are arguments of the pod: no shell reads them."""

    template_fields = (*KubernetesPodOperator.template_fields, "words")

    def __init__(
        self, *, words: Sequence[str], tail: str = "", skip_on: Sequence[int] = (), needs: Sequence[str] = (),
        after_failure_of: str | None = None, pool: str, **kwargs: Any,
    ) -> None:  # fmt: skip
        self.gpu = pool == GPU
        super().__init__(
            pool=pool, cmds=["sh", "-c", SCRIPT.format(tail=tail), "cityloop"], env_vars=dict(DAG_RUN),
            pod_template_file=os.environ.get("CITYLOOP_POD_TEMPLATE") or str(city.HERE / "infra/kubernetes/pod.yaml"),
            image=os.environ.get("CITYLOOP_IMAGE"), node_selector=_gpu_nodes() if self.gpu else None,
            skip_on_exit_code=[*skip_on], do_xcom_push=True, log_events_on_failure=True,
            # Hours of training are waited for by the triggerer: no worker, and no token that grows old.
            deferrable=self.gpu, **kwargs,
        )  # fmt: skip
        self.words, self.tail, self.needs, self.after_failure_of = list(words), tail, tuple(needs), after_failure_of

    def execute(self, context: Context) -> Any:
        """Run it. Raises AirflowException, AirflowFailException or AirflowSkipException by its exit code."""
        self.due(context)
        return self._settled(context, lambda: super(CityloopPod, self).execute(context))

    def trigger_reentry(self, context: Context, event: dict[str, Any]) -> Any:
        """Go on once the triggerer has seen the pod end."""
        return self._settled(context, lambda: super(CityloopPod, self).trigger_reentry(context, event))

    def build_pod_request_obj(self, context: Context | None = None, *, dry_run: bool = False) -> k8s.V1Pod:
        """The template with the command; for pool `gpu` also with a GPU."""
        self.arguments = [word for word in self.words if word]
        pod = super().build_pod_request_obj(context, dry_run=dry_run)
        if self.gpu:
            has = pod.spec.containers[0].resources or k8s.V1ResourceRequirements()
            requests, limits = ({**(given or {}), GPU_KIND: "1"} for given in (has.requests, has.limits))
            pod.spec.containers[0].resources = k8s.V1ResourceRequirements(requests=requests, limits=limits)
        return pod

    def extract_xcom(self, pod: k8s.V1Pod) -> Any:
        self.said = super().extract_xcom(pod)
        return self.said

    def _settled(self, context: Context, run: Any) -> Any:
        """`run`, its outcome told as that of any command."""
        try:
            run()
        except AirflowSkipException as skip:
            self.settled(context, _code(self), str(skip), {_code(self)})
        except AirflowException as error:
            self.settled(context, _code(self), " ".join(str(error).split())[:500])
            raise
        return self.settled(context, 0, "")


def _code(pod: CityloopPod) -> int | None:
    """With which the command's container ended, where that is known."""
    states = pod.remote_pod.status.container_statuses if pod.remote_pod and pod.remote_pod.status else None
    ended = [s.state.terminated for s in states or () if s.name == pod.base_container_name and s.state]
    return next((end.exit_code for end in ended if end), None)


def _gpu_nodes() -> dict[str, str]:
    pairs = (os.environ.get("CITYLOOP_GPU_NODES") or GPU_NODES).split(",")
    return {key: value for key, _, value in (pair.partition("=") for pair in pairs)}
