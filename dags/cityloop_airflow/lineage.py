"""What a task read and made, as OpenLineage events tell it: paths with the hashes that dvc.lock has, and assets.

Nothing happens here unless OpenLineage is configured (`[openlineage] transport`, or its own variables).
"""

import os
from typing import Any

from airflow.sdk import Context, conf

SPACE = "cityloop"


def wanted() -> bool:
    return bool(
        conf.get("openlineage", "transport", fallback="")
        or conf.get("openlineage", "config_path", fallback="")
        or os.environ.get("OPENLINEAGE_URL")
    )


def read_by(context: Context) -> dict[str, str]:
    """Path → hash of what the stages before this task made."""
    above = sorted(context["task"].upstream_task_ids)
    answers = context["ti"].xcom_pull(task_ids=above) if above else []
    return {path: md5 for said in answers or () for path, md5 in outs(said).items()}


def outs(said: Any) -> dict[str, str]:
    """Path → hash, of a stage's result."""
    found = said.get("outs") if isinstance(said, dict) else None
    return found if isinstance(found, dict) else {}


def facets(read: dict[str, str], made: dict[str, str], assets: list[str], commit: str) -> Any:
    """As Airflow's provider takes it from an operator."""
    from airflow.providers.openlineage.extractors import OperatorLineage
    from openlineage.client.event_v2 import Dataset
    from openlineage.client.facet_v2 import dataset_version_dataset

    def dataset(name: str, version: str) -> Any:
        told = {"version": dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=version)}
        return Dataset(namespace=SPACE, name=name, facets=told if version else {})

    inputs = [dataset(path, md5) for path, md5 in read.items()]
    outputs = [dataset(path, md5) for path, md5 in made.items()]
    return OperatorLineage(inputs=inputs, outputs=[*outputs, *(dataset(uri, commit) for uri in assets)])
