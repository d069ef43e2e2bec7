"""Run by Airflow's own Python: loads the DAGs of dags/ and tells what they are, as JSON. Needs no database."""

import contextlib
import json
import os
import sys
import time
import warnings

with contextlib.redirect_stdout(sys.stderr):
    # What the DAGs use of Airflow itself is not counted.
    import airflow.providers.standard.operators.bash
    import airflow.providers.standard.operators.hitl
    import airflow.providers.standard.operators.trigger_dagrun  # noqa: F401
    from airflow.dag_processing.dagbag import DagBag
    from airflow.serialization.serialized_objects import DagSerialization

DIGEST = "ab" * 32
SAID = {
    "gate": {"version": "7", "digest": DIGEST, "verdict": "passed", "why": "it's better; so $(touch x)"},
    "merge": {"commit": "c0ffee", "run": "r", "windows": {}},
    "card_of": {"card": "# Card", "url": "http://mlflow/7"},
    "form": {
        "chosen_options": ["Approve"],
        "params_input": {"note": "it's fine; $(touch /tmp/x) `id` --reject"},
        "responded_by_user": {"id": "1", "name": "Ada L'Ovelace; id"},
    },
}


class TaskInstance:
    """As far as templates ask it."""

    def xcom_pull(self, task_ids):
        return SAID[task_ids]


def context(dag):
    params = {name: param.value for name, param in dag.params.items()}
    return {"dag": dag, "run_id": "manual__2026-01-01T00:00:00+00:00", "ti": TaskInstance(), "params": params}


def rendered(dag, texts):
    jinja = dag.get_template_env()
    return [jinja.from_string(one(text)).render(context(dag)) for text in texts]


def one(word):
    """Of a word that is mapped over tasks: the first."""
    return word if isinstance(word, str) else word._input.value[word._key][0]


def mapped_over(task):
    group = task.task_group
    return list(group._expand_input.value.values()) if hasattr(group, "_expand_input") else None


def pod(task, words):
    task.words = words
    made = task.build_pod_request_obj(None, dry_run=True)
    first = made.spec.containers[0]
    return {
        "command": first.command,
        "args": first.args,
        "image": first.image,
        "limits": first.resources.limits,
        "requests": first.resources.requests,
        "nodes": made.spec.node_selector,
        "env": {e.name: e.value for e in first.env},
        "volumes": [v.name for v in made.spec.volumes],
    }


def task_told(dag, task):
    words = getattr(task, "words", None)
    told = {
        "class": type(task).__name__,
        "owner": task.owner,
        "pool": task.pool,
        "retries": task.retries,
        "backoff": task.retry_exponential_backoff,
        "timeout": task.execution_timeout.total_seconds() if task.execution_timeout else None,
        "rule": str(task.trigger_rule),
        "doc": bool(task.doc_md),
        "upstream": sorted(task.upstream_task_ids),
        "told": bool(task.on_failure_callback),
        "outlets": [getattr(outlet, "uri", outlet.name) for outlet in getattr(task, "outlets", None) or []],
        "mapped": mapped_over(task),
        "skip_on": list(getattr(task, "skip_on_exit_code", None) or []),
        "words": words and rendered(dag, words),
        "tail": getattr(task, "tail", None),
    }
    if hasattr(task, "build_pod_request_obj"):
        told["pod"] = pod(task, told["words"])
    return told


def dag_told(dag):
    serialized = DagSerialization.to_dict(dag)["dag"]
    return {
        "tags": sorted(dag.tags),
        "doc": dag.doc_md or "",
        "description": dag.description or "",
        "catchup": dag.catchup,
        "paused": dag.is_paused_upon_creation,
        "max_active_runs": dag.max_active_runs,
        "params": {name: param.value for name, param in dag.params.items()},
        "schedule": str(serialized["timetable"]),
        "deadlines": [alert.interval for alert in dag.deadline or []],
        "tasks": {task.task_id: task_told(dag, task) for task in dag.tasks},
    }


def main():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        began = time.process_time()
        bag = DagBag(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
        seconds = time.process_time() - began
    return {
        "seconds": seconds,
        "errors": bag.import_errors,
        "warnings": [f"{w.filename}: {w.message}" for w in caught if "/dags/" in w.filename],
        "imported": sorted({"pipelines", "pandas", "numpy", "torch", "kubernetes"} & set(sys.modules)),
        "dags": {name: dag_told(dag) for name, dag in sorted(bag.dags.items())},
    }


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        answer = main()
    print(json.dumps(answer))
