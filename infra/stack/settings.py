"""What each process of the stack is told, by environment: settings in one place, each secret only to who needs it."""

import json
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from place import FOLDER, POSTGRES, REPOSITORY, Place, write

from pipelines.core.errors import UserError

BIN = Path(sys.executable).parent
AIRFLOW_BIN = REPOSITORY / ".venv-airflow/bin"
MONITORING = REPOSITORY / "infra/monitoring"
DAGS = "CITYLOOP_DAGS"
_OWN = (DAGS, POSTGRES, FOLDER)
ROLES = {"admin": "admin", "reviewer": "user", "viewer": "viewer"}
"""Of Airflow's simple auth manager: `user` runs DAGs and answers forms, `viewer` looks."""
DRIVER = "postgresql+psycopg2"

Environment = dict[str, str]


def database(place: Place, secrets: dict[str, Any], name: str) -> str:
    """The address of database `name`: airflow, mlflow or mlflow_auth."""
    if place.own_postgres:
        return urlsplit(place.own_postgres)._replace(scheme=DRIVER, path=f"/{name}").geturl()
    user = name.removesuffix("_auth")
    password = secrets["internal"][f"{user}_db"]
    return f"{DRIVER}://{user}:{quote(password)}@127.0.0.1:{place.ports['postgres']}/{name}"


def commands(place: Place, secrets: dict[str, Any]) -> Environment:
    """For `cityloop …` as Airflow's tasks call it, in MLflow as user `airflow`; people can source it."""
    return _city(place) | _registry(place, secrets) | {"CITYLOOP_DOOR_KEY": str(place.folder / "door.pem")}


def write_all(place: Place, secrets: dict[str, Any], workers: dict[str, Environment]) -> None:
    """`run/env/NAME.json` for every process, `run/commands.env`, and the files that some are configured by."""
    city, registry, tasks, airflow = (f(place, secrets) for f in (_of_city, _registry, commands, _airflow))
    celery = _celery(place, secrets) if place.executor == "celery" else {}
    told: dict[str, Environment] = {
        "redis": {},
        "mlflow": _mlflow(place, secrets),
        "serving": city,
        "promoter": city | registry,
        "exporter": city | _registry(place, secrets, "viewer"),
        "prometheus": {},
        "api": airflow | celery | city,
        "scheduler": airflow | celery | (city if celery else tasks),
        "dag-processor": airflow | city,
        "triggerer": airflow | city | registry,
        **{w: airflow | celery | tasks | workers.get(w, {}) for w in ("w1", "w2")},
    }
    for name, environment in told.items():
        (place.run / name).mkdir(mode=0o700, exist_ok=True)
        write(place.run / "env" / f"{name}.json", json.dumps(environment, indent=1))
    _prometheus(place)
    write(place.run / "commands.env", "".join(f"{k}={shlex.quote(v)}\n" for k, v in tasks.items()))
    write(place.run / "airflow-users.json", json.dumps(secrets["airflow"]))
    users = database(place, secrets, "mlflow_auth").replace("%", "%%")
    write(place.run / "mlflow-auth.ini", _MLFLOW_AUTH.format(users))
    write(place.run / "redis.conf", _REDIS.format(place=place, password=secrets["internal"]["redis"]))


def read(file: Path) -> Environment:
    """KEY=VALUE lines, as a shell would take them."""
    try:
        words = [word for word in shlex.split(file.read_text(), comments=True) if word != "export"]
        return {name: value for name, _, value in (word.partition("=") for word in words)}
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: not a file of KEY=VALUE lines: {error}") from None


def _of_city(place: Place, _: dict[str, Any]) -> Environment:
    return _city(place)


def _city(place: Place) -> Environment:
    """Whatever of the city `up` was told, such as CITYLOOP_GIT, and what is the stack's to say."""
    given = {k: v for k, v in os.environ.items() if k.startswith("CITYLOOP_") and k not in _OWN}
    return given | {
        "PATH": os.pathsep.join([str(BIN), str(AIRFLOW_BIN), os.environ.get("PATH", os.defpath)]),
        "CITYLOOP_ROOT": str(place.root),
        "CITYLOOP_STATE": str(place.state),
        "CITYLOOP_STORE": os.environ.get("CITYLOOP_STORE") or str(place.state / "store"),
        "CITYLOOP_REVIEWERS": str(place.folder / "reviewers.json"),
        "MLFLOW_TRACKING_URI": place.url("mlflow"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONUNBUFFERED": "1",
        "NO_COLOR": "1",
    }


def _registry(place: Place, secrets: dict[str, Any], user: str = "airflow") -> Environment:
    return {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": secrets["mlflow"][user]}


def _prometheus(place: Place) -> None:
    """Where it runs: the configuration of infra/monitoring, and whom it is to ask."""
    folder = place.run / "prometheus"
    shutil.copy(MONITORING / "prometheus.yml", folder)
    shutil.copytree(MONITORING / "rules", folder / "rules", dirs_exist_ok=True)
    (folder / "targets").mkdir(exist_ok=True)
    for name in ("serving", "exporter"):
        write(folder / f"targets/{name}.yaml", f"- targets: ['127.0.0.1:{place.ports[name]}']\n")
    write(folder / "serving.key", "")  # on this machine the server asks nobody who reads its metrics


def _mlflow(place: Place, secrets: dict[str, Any]) -> Environment:
    return _city(place) | {
        "MLFLOW_BACKEND_STORE_URI": database(place, secrets, "mlflow"),
        "MLFLOW_AUTH_CONFIG_PATH": str(place.run / "mlflow-auth.ini"),
        "MLFLOW_ENABLE_WORKSPACES": "true",  # without them every user may make models, and owns what they made
        "MLFLOW_AUTH_ADMIN_USERNAME": "admin",
        "MLFLOW_AUTH_ADMIN_PASSWORD": secrets["mlflow"]["admin"],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets["internal"]["flask"],
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # a second server's worth of memory, for what nobody here uses
    }


def _airflow(place: Place, secrets: dict[str, Any]) -> Environment:
    """Airflow's settings; AIRFLOW__SECTION__KEY in the environment of `up` goes before them."""
    dags = Path(os.environ.get(DAGS) or REPOSITORY / "dags").resolve()
    settings = {
        "core": {
            "executor": {"local": "LocalExecutor", "celery": "CeleryExecutor"}[place.executor],
            "dags_folder": dags,
            "load_examples": False,
            "parallelism": 8,
            "execution_api_server_url": f"{place.url('airflow')}/execution/",
            "fernet_key": secrets["internal"]["fernet"],
            "simple_auth_manager_users": ",".join(f"{name}:{role}" for name, role in ROLES.items()),
            "simple_auth_manager_passwords_file": place.run / "airflow-users.json",
        },
        "api": {"base_url": place.url("airflow"), "secret_key": secrets["internal"]["api"], "workers": 1},
        "api_auth": {"jwt_secret": secrets["internal"]["jwt"]},
        "database": {"sql_alchemy_conn": database(place, secrets, "airflow")},
        # A worker that died is noticed within a minute; the default takes five.
        "scheduler": {
            "task_instance_heartbeat_sec": 5,
            "task_instance_heartbeat_timeout": 60,
            "task_instance_heartbeat_timeout_detection_interval": 10,
        },
        "dag_processor": {
            "refresh_interval": 30,
            "min_file_process_interval": 30,
            "parsing_processes": 1,
            "stale_bundle_cleanup_interval": 0,  # a process more in each worker, for bundles nobody here has
            "dag_bundle_storage_path": place.folder / "airflow/bundles",
        },
        "triggerer": {"capacity": 200},
        "logging": {"base_log_folder": place.logs / "airflow", "colored_console_log": False},
        "usage_data_collection": {"enabled": False},
    }
    flat = {f"AIRFLOW__{s}__{k}".upper(): str(v) for s, values in settings.items() for k, v in values.items()}
    own = {k: v for k, v in os.environ.items() if k.startswith("AIRFLOW__")}
    return flat | own | {"AIRFLOW_HOME": str(place.folder / "airflow"), "PYTHONPATH": str(dags)}


def _celery(place: Place, secrets: dict[str, Any]) -> Environment:
    settings = {
        "broker_url": f"redis://:{quote(secrets['internal']['redis'])}@127.0.0.1:{place.ports['redis']}/0",
        "result_backend": "db+" + database(place, secrets, "airflow"),
        "worker_concurrency": 2,
    }
    told = {f"AIRFLOW__CELERY__{k}".upper(): str(v) for k, v in settings.items()}
    # A task that runs longer than this is given out again, so it is a day.
    told["AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT"] = "86400"
    return told | {k: v for k, v in os.environ.items() if k.startswith("AIRFLOW__CELERY")}


# Whoever may log in may read; what else a user may do, and that includes making anything, is granted by prepare.py.
# One process serves, so that it may remember for a while who a password belongs to: checking takes long on purpose.
_MLFLOW_AUTH = """\
[mlflow]
database_uri = {}
default_permission = READ
grant_default_workspace_access = true
auth_cache_ttl_seconds = 60
"""
_REDIS = """\
bind 127.0.0.1
port {place.ports[redis]}
requirepass {password}
dir {place.folder}/redis
appendonly yes
save ""
"""
