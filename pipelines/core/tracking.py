"""The one place that touches MLflow: runs found by their inputs, model versions found by their digest.

Everything is written so that doing it again, or going on after a kill, ends in the same state.
MLflow is imported when `connect` is called, not before.
"""

import contextlib
import fcntl
import importlib.util
import logging
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import yaml

from pipelines.core.errors import UserError
from pipelines.core.paths import Paths

INPUTS = "inputs"
DIGEST = "digest"
COMPLETE = "complete"
DESCRIPTION_LIMIT = 5000
"""Characters: the column of MLflow's database, which PostgreSQL enforces and SQLite does not."""
_BATCH = 500
_QUIET = {
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}
_FIRST_CONTACT = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}


class Point(NamedTuple):
    """One value of a metric; `step` orders a curve."""

    name: str
    value: float
    step: int = 0


def uri(paths: Paths) -> str:
    """Where MLflow's data lie: MLFLOW_TRACKING_URI, else a SQLite file in the city's state.

    A SQLite path is made absolute: MLflow would take it relative to wherever it is read.
    """
    given = os.environ.get("MLFLOW_TRACKING_URI")
    database = _database(given) if given else paths.state / "mlflow.db"
    return given if given and not database else f"sqlite:///{database}"


def configured(paths: Paths) -> bool:
    """Whether MLflow can be imported and has a place of its own here: an address given, or a database begun."""
    given = os.environ.get("MLFLOW_TRACKING_URI") or (paths.state / "mlflow.db").exists()
    return bool(given) and importlib.util.find_spec("mlflow") is not None


def page_url(paths: Paths, name: str, version: object) -> str:
    """Where people look at a version; "" where no server of MLflow is known."""
    where = uri(paths)
    # A server with workspaces would ask which one is meant first; others do not mind.
    page = f"/#/models/{name}/versions/{version}?workspace=default"
    return f"{_public(where, where).rstrip('/')}{page}" if where.startswith("http") else ""


@contextlib.contextmanager
def connect(paths: Paths) -> Iterator["Tracking"]:
    """MLflow at `uri(paths)`, reached and initialised; what it raises becomes a one-line UserError with a way out."""
    where = uri(paths)
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import mlflow
    except ImportError:
        raise UserError("mlflow is not installed; install cityloop[track] where models are registered") from None
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    with _one_line(where), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _reach(mlflow, where)
        mlflow.set_tracking_uri(where)
        yield Tracking(mlflow.MlflowClient(where), _database(where))


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold `path` as a lock among the processes of this machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True)
class Tracking:
    """What registering needs of MLflow. Artifacts lie beside a local `database`; a server decides itself."""

    client: Any
    database: Path | None

    def experiment(self, name: str) -> str:
        """The id of experiment `name`, made or brought back from the bin as needed."""
        found = self.client.get_experiment_by_name(name)
        if found is None:
            location = (self.database.parent / "mlartifacts" / name).as_uri() if self.database else None
            return str(self.client.create_experiment(name, artifact_location=location))
        if found.lifecycle_stage != "active":
            self.client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def run(self, experiment: str, inputs: str, name: str) -> Any:
        """The MLflow run of these inputs: a complete one if there is one, else an unfinished one, else a new one."""
        found = self.client.search_runs(
            [experiment], f"tags.{INPUTS} = '{inputs}'", order_by=["attributes.start_time ASC"]
        )
        if found:
            return next((r for r in found if self.complete(r)), found[0])
        return self.client.create_run(experiment, tags={INPUTS: inputs}, run_name=name)

    def log(self, run: Any, params: Mapping[str, Any], points: Iterable[Point], model_id: str | None = None) -> None:
        """Params and metrics. Logging the same again adds nothing: a point's time is the run's start plus its step."""
        from mlflow.entities import Metric, Param

        def batches(items: list[Any]) -> Iterator[list[Any]]:
            return (items[i : i + _BATCH] for i in range(0, len(items), _BATCH))

        start = run.info.start_time
        metrics = [
            Metric(p.name, p.value, start + p.step, p.step, model_id=model_id, run_id=run.info.run_id) for p in points
        ]
        # MLflow takes at most 100 params a request.
        listed = [Param(k, str(v)) for k, v in params.items()]
        for i in range(0, len(listed), 100):
            self.client.log_batch(run.info.run_id, params=listed[i : i + 100])
        for some in batches(metrics):
            self.client.log_batch(run.info.run_id, metrics=some)

    def tag_run(self, run: Any, tags: Mapping[str, str]) -> None:
        for key, value in tags.items():
            if run.data.tags.get(key) != value:
                self.client.set_tag(run.info.run_id, key, value)

    def keep(self, run: Any, path: Path, folder: str) -> None:
        """Store a file, or what is in a folder, among the run's artifacts; a missing one is passed over."""
        if path.is_dir():
            self.client.log_artifacts(run.info.run_id, str(path), folder)
        elif path.is_file():
            self.client.log_artifact(run.info.run_id, str(path), folder or None)

    def complete(self, run: Any) -> bool:
        """Whether `finish` was reached. The run's status says less: logging a model sets it to finished."""
        return bool(run.data.tags.get(COMPLETE) == "true")

    def finish(self, run: Any) -> None:
        if not self.complete(run):
            self.client.set_terminated(run.info.run_id, "FINISHED")
            self.client.set_tag(run.info.run_id, COMPLETE, "true")

    def model(self, experiment: str, digest: str) -> str | None:
        """The id of a whole logged model of this digest; the halves that a killed process left are removed."""
        found = self.client.search_logged_models([experiment], f"tags.{DIGEST} = '{digest}'")
        whole = [m for m in found if str(m.status) == "READY"]
        for half in (m for m in found if str(m.status) != "READY"):
            self.client.delete_logged_model(half.model_id)
        return str(whole[-1].model_id) if whole else None

    def log_model(self, run: Any, digest: str, name: str, **pyfunc: Any) -> str:
        """Log a pyfunc model into `run`; `pyfunc` are the arguments of mlflow.pyfunc.log_model. Returns its id."""
        import mlflow.pyfunc

        with mlflow.start_run(run_id=run.info.run_id):
            info = mlflow.pyfunc.log_model(name=name, tags={DIGEST: digest}, **pyfunc)
        return str(info.model_id)

    def versions(self, name: str) -> list[Any]:
        """All versions of a registered model, oldest first; made if there is no such model."""
        from mlflow.exceptions import MlflowException

        # Where MLflow asks who one is, asking for a model that is not there is answered with "permission denied".
        if not self.known(name):
            try:
                self.client.create_registered_model(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
        found, token = [], None
        while True:
            page = self.client.search_model_versions(f"name = '{name}'", page_token=token)
            found += page
            token = page.token
            if not token:
                return sorted(found, key=lambda v: int(v.version))

    def version(self, name: str, digest: str) -> Any | None:
        """The version with this digest; the oldest, where two processes made one at the same time."""
        return next((v for v in self.versions(name) if v.tags.get(DIGEST) == digest), None)

    def create_version(self, name: str, model_id: str, run: Any, digest: str) -> Any:
        """Make a version; its digest is there from the first moment, so a process killed here is never doubled."""
        made = self.client.create_model_version(
            name,
            source=f"models:/{model_id}",
            run_id=run.info.run_id,
            tags={DIGEST: digest},
            model_id=model_id,
        )
        first = self.version(name, digest)
        if first is not None and str(first.version) != str(made.version):
            # Another machine was quicker; the file lock cannot see that far.
            self.client.delete_model_version(name, made.version)
            return first
        return made

    def bundle(self, version: Any, to: Path) -> Path:
        """Download a version's model into folder `to`; returns where in it the bundle is, which nobody verified yet."""
        import mlflow.artifacts

        where = f"models:/{version.name}/{version.version}"
        model = Path(mlflow.artifacts.download_artifacts(artifact_uri=where, dst_path=str(to)))
        described = yaml.safe_load((model / "MLmodel").read_text(encoding="utf-8"))
        return model / str(described["flavors"]["python_function"]["data"])

    def describe(self, version: Any, description: str, tags: Mapping[str, str]) -> None:
        """Bring a version's description and tags to these; others, such as reviews, are left alone."""
        if version.description != description:
            self.client.update_model_version(version.name, version.version, description)
        for key, value in tags.items():
            if version.tags.get(key) != value:
                self.client.set_model_version_tag(version.name, version.version, key, value)

    def aliases(self, name: str) -> dict[str, str]:
        """Alias to version number."""
        return {k: str(v) for k, v in self.client.get_registered_model(name).aliases.items()}

    def point(self, name: str, alias: str, version: str) -> None:
        self.client.set_registered_model_alias(name, alias, version)

    def known(self, name: str) -> bool:
        """Whether there is a registered model of that name."""
        return any(m.name == name for m in self.client.search_registered_models(f"name = '{name}'"))

    def by_alias(self, name: str, alias: str) -> Any | None:
        """The version that `alias` points to, with its tags as they are now; None where there is none."""
        number = self.aliases(name).get(alias) if self.known(name) else None
        return self.client.get_model_version(name, number) if number else None

    def serves(self, name: str, champion: str | None, previous: str | None) -> None:
        """Make the aliases say which digests serve and served before; a candidate that serves is none any more."""
        if not self.known(name):
            return
        of = {v.tags.get(DIGEST): str(v.version) for v in reversed(self.versions(name))}
        wanted, have = {"champion": of.get(champion), "previous": of.get(previous)}, self.aliases(name)
        for alias, number in wanted.items():
            if number and have.get(alias) != number:
                self.point(name, alias, number)
            elif number is None and alias in have:
                self.client.delete_registered_model_alias(name, alias)
        if have.get("candidate") and have["candidate"] == wanted["champion"]:
            self.client.delete_registered_model_alias(name, "candidate")


def _database(where: str) -> Path | None:
    """The file of a SQLite address."""
    return Path(where.removeprefix("sqlite:///")).absolute() if where.startswith("sqlite:///") else None


def _reach(mlflow: Any, where: str) -> None:
    """First contact, with little patience; a SQLite file is initialised, one process at a time.

    Six processes that open a fresh SQLite store at once crash one another.
    """
    if database := _database(where):
        with locked(database.with_name("mlflow.lock")):
            mlflow.MlflowClient(where).search_experiments(max_results=1)
            mlflow.MlflowClient(where).search_registered_models(max_results=1)
        return
    patient = {k: os.environ[k] for k in _FIRST_CONTACT}
    os.environ.update(_FIRST_CONTACT)
    try:
        mlflow.MlflowClient(where).search_experiments(max_results=1)
    finally:
        os.environ.update(patient)


@contextlib.contextmanager
def _one_line(where: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except ModuleNotFoundError as error:
        raise UserError(f"MLflow at {_public(where, where)}: needs {error.name}, which is not installed") from error
    except Exception as error:
        if not type(error).__module__.startswith(("mlflow", "requests", "urllib3", "sqlalchemy", "alembic")):
            if isinstance(error, OSError) and error.filename:
                raise UserError(f"MLflow at {_public(where, where)}: {error.filename}: {error.strerror}") from error
            raise
        raise UserError(
            f"MLflow at {_public(where, where)}: {_reason(error, where)}; nothing is lost: the results are files, "
            "run `cityloop register` again when MLflow answers, or point MLFLOW_TRACKING_URI elsewhere"
        ) from error


def _reason(error: Exception, where: str) -> str:
    """The core of an error: the system's own words where it has some, else the message, cut short."""
    text = " ".join(str(error).split())
    system = re.search(r"\[Errno -?\d+\] [^'\")>]+|[Tt]imed out", text)
    return _public(system[0] if system else text if len(text) < 300 else f"{text[:200]} … {text[-90:]}", where)


def _public(text: str, where: str) -> str:
    """`text` without the user and password of address `where`."""
    secret, at, _ = urlsplit(where).netloc.rpartition("@")
    return text.replace(f"{secret}@", "") if at else text
