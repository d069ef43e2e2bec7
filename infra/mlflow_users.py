"""MLflow's users in compose.yaml, its roles, and who plays which, as `make up` makes them. Again, it sets passwords.

Runs in MLflow's own image, as admin; passwords come as MLFLOW_<NAME>_PASSWORD. Tested against MLflow's server.
"""

import os
from http import HTTPStatus
from typing import Any

import requests

PASSWORDS = {"airflow": "SERVICE", "reviewer": "REVIEWER", "viewer": "VIEWER"}
ROLES = {
    # The service makes and keeps what is in the registry, whoever began it.
    "keeper": {"workspace": "USE", "registered_model": "MANAGE", "experiment": "EDIT"},
    # Tags of versions, which is where a review stands; neither models nor their aliases.
    "reviewer": {"registered_model_version": "EDIT"},
}
"""What a role may do to every resource of a kind, those to come too. Without a role one may read."""
PLAYS = {"airflow": "keeper", "reviewer": "reviewer"}


def main() -> None:
    for user, name in PASSWORDS.items():
        login = {"username": user, "password": os.environ[f"MLFLOW_{name}_PASSWORD"]}
        if not make("2.0/mlflow/users/create", login):
            ask("PATCH", "2.0/mlflow/users/update-password", login).raise_for_status()
    for role in ROLES:
        make("3.0/mlflow/roles/create", {"name": role, "workspace": "default"})
    found = ask("GET", "3.0/mlflow/roles/list?workspace=default").json()["roles"]
    numbers = {role["name"]: role["id"] for role in found}
    for role, permissions in ROLES.items():
        for kind, permission in permissions.items():
            given = {"resource_type": kind, "resource_pattern": "*", "permission": permission}
            make("3.0/mlflow/roles/permissions/add", {"role_id": numbers[role], **given})
    for user, role in PLAYS.items():
        make("3.0/mlflow/roles/assign", {"role_id": numbers[role], "username": user})


def make(path: str, body: dict[str, Any]) -> bool:
    """False where it was there already."""
    done = ask("POST", path, body)
    if done.status_code != HTTPStatus.CONFLICT and "RESOURCE_ALREADY_EXISTS" not in done.text:
        done.raise_for_status()
    return done.ok


def ask(method: str, path: str, body: dict[str, Any] | None = None) -> requests.Response:
    admin = (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"])
    url = f"{os.environ['MLFLOW_TRACKING_URI']}/api/{path}"
    return requests.request(method, url, json=body, auth=admin, timeout=30)


if __name__ == "__main__":
    main()
