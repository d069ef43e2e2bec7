"""What the services need of one another before all of them run: databases, users, pools. Each safe to repeat."""

import base64
import contextlib
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import bundled
from place import POSTGRES, USERS, Place, write

from pipelines.core.errors import UserError

DATABASES = ("airflow", "mlflow", "mlflow_auth")
ROLES = {
    # The service makes and keeps what is in the registry, whoever began it.
    "keeper": {"workspace": "USE", "registered_model": "MANAGE", "experiment": "EDIT"},
    # Tags of versions, which is where a review stands; neither models nor their aliases.
    "reviewer": {"registered_model_version": "EDIT"},
}
"""In MLflow: what a role may do to every resource of a kind, those to come too. Without a role one may read."""
PLAYS = {"airflow": "keeper", "reviewer": "reviewer"}
POOLS = {
    "cpu": (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2, "Stages that compute: one a core"),
    "gpu": (max(1, len([*Path("/dev").glob("nvidia[0-9]*")])), "Trainings: one a GPU"),
    "promote": (1, "Promotions, one at a time"),
}


def databases(place: Place, secrets: dict[str, Any]) -> None:
    """Users and databases of Airflow and MLflow, in the bundled PostgreSQL or in yours."""
    import psycopg2
    from psycopg2 import sql

    with _yours(place), _session(place, secrets) as cursor:
        for name in () if place.own_postgres else ("airflow", "mlflow"):
            cursor.execute("select 1 from pg_roles where rolname = %s", (name,))
            verb = sql.SQL("alter" if cursor.fetchone() else "create")
            command = sql.SQL("{} role {} login password {}")
            cursor.execute(command.format(verb, sql.Identifier(name), sql.Literal(secrets["internal"][f"{name}_db"])))
        for name in DATABASES:
            cursor.execute("select 1 from pg_database where datname = %s", (name,))
            if cursor.fetchone():
                continue
            command = sql.SQL("create database {}").format(sql.Identifier(name))
            if not place.own_postgres:
                command += sql.SQL(" owner {}").format(sql.Identifier(name.removesuffix("_auth")))
            try:
                cursor.execute(command)
            except psycopg2.errors.InsufficientPrivilege:
                raise UserError(
                    f"{POSTGRES}: there is no database {name}, and its user may not create one; have `create database "
                    f"{name}` done, for this user to own"
                ) from None


@contextlib.contextmanager
def _session(place: Place, secrets: dict[str, Any]) -> Iterator[Any]:
    import psycopg2

    if place.own_postgres:
        url = urlsplit(place.own_postgres)
        connection = psycopg2.connect(url._replace(scheme="postgresql", path=url.path or "/postgres").geturl())
    else:
        connection = psycopg2.connect(**bundled.admin(place, secrets), dbname="postgres")
    connection.autocommit = True  # databases cannot be made in a transaction
    try:
        with connection.cursor() as cursor:
            yield cursor
    finally:
        connection.close()


@contextlib.contextmanager
def _yours(place: Place) -> Iterator[None]:
    """What goes wrong with an address that was given is its giver's to mend."""
    import psycopg2

    try:
        yield
    except psycopg2.Error as error:
        if not place.own_postgres:
            raise
        shown = urlsplit(place.own_postgres)
        said = " ".join(str(error).split())
        raise UserError(f"{POSTGRES}: PostgreSQL at {shown.hostname}:{shown.port or 5432} says: {said}") from None


def upgrade_mlflow(place: Place) -> None:
    """`mlflow db upgrade`, which wants the database's address as a word: told by the environment, nobody sees it."""
    words = "import os; from mlflow.db import upgrade; upgrade([os.environ['MLFLOW_BACKEND_STORE_URI']])"
    told = json.loads((place.run / "env/mlflow.json").read_text())
    log = place.logs / "mlflow-upgrade.log"
    with log.open("w") as file:
        done = subprocess.run(
            [sys.executable, "-c", words], stdout=file, stderr=file, env=os.environ | told, cwd=place.run, check=False
        )
    if done.returncode:
        raise UserError(f"MLflow's tables could not be brought to this version; see {log}")


def registry_users(place: Place, secrets: dict[str, Any]) -> None:
    """MLflow's users with the passwords we keep, its roles, and who plays which."""
    base, passwords = place.url("mlflow"), secrets["mlflow"]
    basic = "Basic " + base64.b64encode(f"admin:{passwords['admin']}".encode()).decode()

    def ask(path: str, body: dict[str, Any]) -> None:
        call(f"{base}/api/{path}", body, basic)

    for name in USERS["mlflow"][1:]:
        ask("2.0/mlflow/users/create", {"username": name, "password": passwords[name]})
    for name in ROLES:
        ask("3.0/mlflow/roles/create", {"name": name, "workspace": "default"})
    roles = json.loads(call(f"{base}/api/3.0/mlflow/roles/list?workspace=default", None, basic))["roles"]
    numbers = {role["name"]: role["id"] for role in roles}
    for name, permissions in ROLES.items():
        for kind, permission in permissions.items():
            ask(
                "3.0/mlflow/roles/permissions/add",
                {"role_id": numbers[name], "resource_type": kind, "resource_pattern": "*", "permission": permission},
            )
    for user, role in PLAYS.items():
        ask("3.0/mlflow/roles/assign", {"role_id": numbers[role], "username": user})


def pools(place: Place, secrets: dict[str, Any]) -> None:
    """Airflow's pools, where they are not there; their size is the operator's from then on."""
    base = place.url("airflow")
    login = {"username": "admin", "password": secrets["airflow"]["admin"]}
    token = json.loads(call(f"{base}/auth/token", login))["access_token"]
    there = {pool["name"] for pool in json.loads(call(f"{base}/api/v2/pools", None, f"Bearer {token}"))["pools"]}
    for name in POOLS.keys() - there:
        slots, what = POOLS[name]
        body = {"name": name, "slots": slots, "description": what, "include_deferred": False}
        call(f"{base}/api/v2/pools", body, f"Bearer {token}")


def door(place: Place) -> None:
    """A key pair for Airflow's form, and the public keys of all who may approve: it and those of CITYLOOP_REVIEWERS."""
    import jwt
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private, public = place.folder / "door.pem", place.folder / "reviewers.json"
    if not private.exists():
        pem = Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write(private, pem.decode())
    key: Any = serialization.load_pem_private_key(private.read_bytes(), None)
    own = json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(key.public_key())) | {"kid": "airflow", "door": True}
    given = os.environ.get("CITYLOOP_REVIEWERS")
    try:
        others = json.loads(Path(given).read_text())["keys"] if given and Path(given).resolve() != public else []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f'CITYLOOP_REVIEWERS={given}: not a JWKS file ({{"keys": [...]}}): {error}') from None
    write(public, json.dumps({"keys": [own, *(k for k in others if k.get("kid") != "airflow")]}, indent=2) + "\n")


def serving_key(place: Place, secrets: dict[str, Any]) -> None:
    """An API key for the operator, made once."""
    from pipelines.serve import keys

    there = {entry["name"] for entry in keys.listed(root=place.root)}
    if "operator" in secrets.setdefault("serving", {}) and "operator" in there:
        return
    if "operator" in there:
        keys.revoke("operator", root=place.root)
    secrets["serving"]["operator"] = keys.add("operator", root=place.root)
    place.save(secrets)


def call(url: str, body: dict[str, Any] | None, authorization: str = "") -> str:
    """The body of a POST's answer, or of a GET's. That something exists already is no trouble."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": authorization} if authorization else {})
    request = urllib.request.Request(url, json.dumps(body).encode() if body else None, headers)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            text: str = answer.read().decode()
            return text
    except urllib.error.HTTPError as error:
        said = error.read().decode(errors="replace")
        if "RESOURCE_ALREADY_EXISTS" not in said:
            raise UserError(f"{url} says {error.code}: {said[:300]}") from None
        return said
