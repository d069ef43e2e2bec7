"""The whole loop on one machine: `stack.py up`, `down`, `status`.

PostgreSQL, MLflow, Airflow, the promoter, a serving replica and its watchers, under a supervisor that starts again what
dies; with `--executor celery` Redis and two workers too. All listen on 127.0.0.1 alone. Data and credentials lie in
$CITYLOOP_STACK (default: stack/ in the city's state) and outlive `down`.
"""

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bundled
import click
import keeper
import place as places
import prepare
import services
import settings
from keeper import Keeper
from place import Place

from pipelines.commands import Command
from pipelines.core.errors import UserError

PATIENCE = 180.0
"""Seconds for a service to become well, on a machine that is busy; on an idle one all take half a minute."""
Wanted = dict[str, services.Service]


main = click.Group(help=__doc__)
main.command_class = Command


def _pairs(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    if bad := [each for each in given if "=" not in each]:
        raise click.BadParameter(f"{bad[0]}: write NAME=VALUE")
    return dict(each.split("=", 1) for each in given)


@main.command()
@click.option(
    "--executor",
    type=click.Choice(["local", "celery"]),
    envvar="EXECUTOR",
    default="local",
    show_default=True,
    help="Of Airflow; also by EXECUTOR.",
)
@click.option("--free-ports", "free", is_flag=True, help="Whichever are free, for tests.")
@click.option(
    "--port",
    "ports",
    multiple=True,
    callback=_pairs,
    metavar="NAME=NUMBER",
    help=f"Of {', '.join(places.PORTS)}; may be repeated.",
)
@click.option(
    "--worker-env",
    "workers",
    multiple=True,
    callback=_pairs,
    metavar="NAME=FILE",
    help="KEY=VALUE lines of one Celery worker (w1, w2); workers/NAME.env in the stack's folder does as well.",
)
@click.option("--upgrade", is_flag=True, help="Bring MLflow's tables to this version first; back them up before.")
def up(executor: str, free: bool, ports: dict[str, str], workers: dict[str, str], upgrade: bool) -> None:
    """Start what does not run, wait until all is well, and say where it is."""
    begun = time.monotonic()
    place = Place(places.root(), places.folder(), executor, places.choose(_numbers(ports), free), places.own_postgres())
    with _alone(place.folder):
        kept, keep = Place.kept(), Keeper(place.folder)
        if kept and keep.alive():
            if kept.executor != executor:
                raise UserError(f"this stack runs with EXECUTOR={kept.executor}; end it first: make down")
            if upgrade:
                raise UserError("--upgrade is for tables that nobody uses; end the stack first: make down")
            place = kept
        else:
            _clear(place.folder)
            place.make()
        new = _start(place, keep, place.secrets(), workers, upgrade)
    took = f", ready in {time.monotonic() - begun:.0f} s" if new else " already"
    click.echo(f"the stack runs{took}\n", err=True)
    click.echo(_table(place))


@main.command()
def down() -> None:
    """End every process of the stack; data stay."""
    folder = places.folder()
    if not folder.is_dir():
        click.echo("there is no stack here", err=True)
        return
    with _alone(folder):
        click.echo("the stack is ended" if _clear(folder) else "the stack did not run", err=True)


@main.command()
@click.option("--json", "plain", is_flag=True, help="For programs: JSON.")
def status(plain: bool) -> None:
    """Say what runs, and where it is. Exit code 1 unless all is well."""
    place = Place.kept()
    told = _told(place) if place else {"services": {}, "urls": {}}
    if plain:
        click.echo(json.dumps(told, indent=2))
    elif place:
        click.echo(
            "\n".join(f"{name:<14} {state}" for name, state in told["services"].items()) + "\n\n" + _table(place)
        )
    else:
        click.echo("the stack does not run; `make up` starts it", err=True)
    if not told["services"] or set(told["services"].values()) != {"healthy"}:
        raise SystemExit(1)


def _start(place: Place, keep: Keeper, secrets: dict[str, Any], workers: dict[str, str], upgrade: bool) -> bool:
    """Whether anything had to be started. Ends everything where that fails."""
    if not (settings.AIRFLOW_BIN / "airflow").exists():
        raise UserError(f"there is no Airflow in {settings.AIRFLOW_BIN.parent}; `make setup-airflow` installs it")
    wanted = {service.name: service for service in services.of(place)}
    if keep.alive() and all(state == "healthy" for state in _states(place, keep, secrets).values()):
        return False
    try:
        _bring_up(place, keep, secrets, wanted, workers, upgrade)
    except BaseException:
        _clear(place.folder)
        raise
    return True


def _bring_up(place: Place, keep: Keeper, secrets: dict[str, Any], wanted: Wanted,
              workers: dict[str, str], upgrade: bool) -> None:  # fmt: skip
    if not keep.alive():
        names = [n for n in places.PORTS if n in wanted or n == "airflow"]
        places.assert_free(place.ports, names)
        place.keep()
        if "postgres" in wanted:
            bundled.initialise(place, secrets)
        prepare.door(place)
        prepare.serving_key(place, secrets)
        settings.write_all(place, secrets, _workers(place, workers))
        keep.configure(service.program(place) for service in wanted.values())
        keep.start()
    waiting = Waiting(place, keep, secrets, wanted)
    base = [name for name in services.LAST if name in wanted]
    keep.run_programs(base)
    waiting.until_well(*base)
    prepare.databases(place, secrets)
    if upgrade:
        prepare.upgrade_mlflow(place)
    keep.run_programs(["mlflow"])
    with _migration(place) as migrated:
        waiting.until("Airflow's database", migrated)
    airflow = [n for n in wanted if n not in (*base, "mlflow", "serving", "promoter", *services.WATCH)]
    keep.run_programs(airflow)
    waiting.until_well("mlflow")
    prepare.registry_users(place, secrets)
    keep.run_programs(["serving", "promoter", *(n for n in services.WATCH if n in wanted)])
    waiting.until_well("api")
    prepare.pools(place, secrets)
    waiting.until_well(*wanted)


class Waiting:
    """For services to become well; says for which."""

    def __init__(self, place: Place, keep: Keeper, secrets: dict[str, Any], wanted: Wanted) -> None:
        self.place, self.keep, self.secrets, self.wanted = place, keep, secrets, wanted
        self._said = ""
        self._pids: dict[str, int] = {}

    def until_well(self, *names: str) -> None:
        def left() -> list[str]:
            infos = self.keep.states()
            return [n for n in names if not services.well(self.wanted[n], self.place, self.secrets, infos[n])]

        until = time.monotonic() + PATIENCE
        while missing := left():
            self._say(", ".join(missing))
            self.assert_alive()
            if time.monotonic() > until:
                raise UserError(self._trouble(missing[0], f"is not well after {PATIENCE:.0f} s"))
            time.sleep(0.3)

    def until(self, what: str, done: Callable[[], bool]) -> None:
        while not done():
            self._say(what)
            self.assert_alive()
            time.sleep(0.1)

    def assert_alive(self) -> None:
        """Raises UserError that shows why a service ended."""
        for name, info in self.keep.states().items():
            again = info["pid"] and self._pids.setdefault(name, info["pid"]) != info["pid"]
            if again or info["statename"] in ("BACKOFF", "FATAL", "EXITED"):
                raise UserError(self._trouble(name, f"ended at its start ({info['spawnerr'] or 'by itself'})"))

    def _trouble(self, name: str, what: str) -> str:
        log = self.place.logs / f"{name}.log"
        lines = log.read_text(errors="replace").splitlines()[-15:] if log.exists() else []
        return "\n".join([f"{name} {what}; the end of {log}:", *(f"  {line}" for line in lines)])

    def _say(self, what: str) -> None:
        if what != self._said:
            self._said = what
            click.echo(f"waiting for {what}", err=True)


@contextlib.contextmanager
def _migration(place: Place) -> Iterator[Callable[[], bool]]:
    """Airflow's tables made or brought up to this version, beside whatever else starts."""
    log = place.logs / "migrate.log"
    told = json.loads((place.run / "env/api.json").read_text())
    with log.open("w") as file:
        process = subprocess.Popen(
            [settings.AIRFLOW_BIN / "airflow", "db", "migrate"], stdout=file, stderr=subprocess.STDOUT,
            env=os.environ | told, cwd=place.run,
        )  # fmt: skip

    def done() -> bool:
        if process.poll():
            tail = "\n".join(f"  {line}" for line in log.read_text().splitlines()[-15:])
            raise UserError(f"airflow db migrate failed; the end of {log}:\n{tail}")
        return process.returncode == 0

    try:
        yield done
    finally:
        process.kill()
        process.wait()


def _states(place: Place, keep: Keeper, secrets: dict[str, Any]) -> dict[str, str]:
    infos = keep.states() if keep.alive() else {}
    states = {}
    for service in services.of(place):
        info = infos.get(service.name, {"statename": "STOPPED"})
        starting = "starting" if info["statename"] == "RUNNING" else info["statename"].lower()
        states[service.name] = "healthy" if services.well(service, place, secrets, info) else starting
    return states


def _told(place: Place) -> dict[str, Any]:
    secrets = json.loads(place.credentials.read_text())
    return {
        "services": _states(place, Keeper(place.folder), secrets),
        "urls": {name: place.url(name) for name in ("airflow", "mlflow", "serving", *_watch())},
        "executor": place.executor,
        "logs": str(place.logs),
        "credentials": str(place.credentials),
        "env": str(place.run / "commands.env"),
    }


def _table(place: Place) -> str:
    users = {**places.USERS, "serving": ("operator",)}
    rows = [f"{name:<9} {place.url(name):<24} {', '.join(users[name])}" for name in ("airflow", "mlflow", "serving")]
    rows += [f"{name:<9} {place.url(name)}" for name in _watch()]
    rows += [] if bundled.prometheus() else ["          no Prometheus reads it here; `make prometheus` gets one"]
    return "\n".join([
        *rows, f"passwords {place.credentials}", f"logs      {place.logs}",
        f"commands  set -a; . {place.run / 'commands.env'}; set +a   # cityloop as Airflow calls it",
    ])  # fmt: skip


def _watch() -> tuple[str, ...]:
    return services.WATCH if bundled.prometheus() else services.WATCH[:1]


def _clear(folder: Path) -> bool:
    """End all that runs of the stack in `folder`, however it was left; whether anything did."""
    marks = tuple(folder / name for name in ("run", "postgres", "redis"))  # each stands in one of these
    mine = keeper.processes(*marks)
    Keeper(folder).shut(services.LAST)
    keeper.end([p for p in {*mine, *keeper.processes(*marks)} if p.is_running()], patience=20)
    shutil.rmtree(folder / "run", ignore_errors=True)
    return bool(mine)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No other up or down at the same time."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another up or down is at work on {folder}; wait for it") from None
        yield


def _workers(place: Place, given: dict[str, str]) -> dict[str, settings.Environment]:
    """What single workers are told beside the rest."""
    found = {file.stem: file for file in (place.folder / "workers").glob("*.env")}
    found |= {name: Path(file) for name, file in given.items()}
    return {name: settings.read(file) for name, file in found.items()}


def _numbers(given: dict[str, str]) -> dict[str, int]:
    if bad := [f"{k}={v}" for k, v in given.items() if k not in places.PORTS or not v.isdigit()]:
        raise UserError(f"--port {bad[0]}: write NAME=NUMBER, NAME one of {', '.join(places.PORTS)}")
    return {name: int(number) for name, number in given.items()}


if __name__ == "__main__":
    sys.exit(main())
