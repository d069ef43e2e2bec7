"""At a glance: what serves, what waits, how it does, which servers live, how fresh the data are.

MLflow is asked last, if at all.
"""

import time
from pathlib import Path
from typing import Any

from pipelines.core import files, params
from pipelines.core.errors import Refused, UserError
from pipelines.core.params import Params
from pipelines.core.paths import Paths
from pipelines.release.beats import Servers
from pipelines.release.ledger import Ledger
from pipelines.release.store import Store
from pipelines.watch.kept import GLANCE, Kept
from pipelines.watch.waiting import candidates


def run(*, root: Path = Path(), patience: float = 2.5) -> dict[str, Any]:
    """{tasks, servers, sources, trouble}. `patience`: seconds to look whether a heartbeat goes on."""
    city, paths = params.load(root), Paths(root)
    store, trouble = Store.of(paths), []
    servers = Servers(store)
    first = servers.look()
    tasks = {name: _serving(store, name) | {"watched": Kept(store.objects, name).read(GLANCE)} for name in city.tasks}
    try:
        for name, waiting in candidates(city, paths).items():
            tasks[name] |= waiting
    except UserError as error:
        trouble.append(str(error))
    if first:
        time.sleep(patience)
    now = servers.look()
    lives = {name: told for name, told in now.items() if told.get("beat") != first.get(name, {}).get("beat")}
    return {
        "tasks": tasks,
        "servers": {name: _server(told, name in lives) for name, told in now.items()},
        "sources": {name: _fresh(city, paths, name) for name in city.sources},
        "trouble": trouble,
    }


def verify(task: str, digest: str, *, root: Path = Path(), patience: float = 2.5) -> int:
    """How many servers live; each answers `task` with release `digest`. Raises Refused where one does not."""
    params.load(root).task(task)
    store = Store.of(Paths(root))
    pointer = store.pointer(task)
    if pointer is None or pointer.stable != digest:
        raise Refused(f"{task}: {((pointer and pointer.stable) or 'nothing')[:12]} is to serve, not {digest[:12]}")
    servers = Servers(store)
    first = servers.look()
    time.sleep(patience if first else 0)
    lives = {name: told for name, told in servers.look().items() if told.get("beat") != first.get(name, {}).get("beat")}
    for name, told in lives.items():
        mine = told.get("tasks", {}).get(task, {})
        if mine.get("stable") != digest:
            why = f": {mine['error']}" if mine.get("error") else ""
            raise Refused(f"{task}: server {name} answers with {(mine.get('stable') or 'nothing')[:12]}{why}")
    return len(lives)


def _serving(store: Store, task: str) -> dict[str, Any]:
    state, pointer = Ledger(store.objects, task).state(), store.pointer(task)
    found: dict[str, Any] = {"champion": state.stable, "previous": state.previous, "since": state.head.get("at")}
    found["version"] = pointer.versions.get(state.stable or "") if pointer else None
    if state.pending:
        found["under_way"] = f"{state.pending['action']} of {state.pending['digest'][:12]} by {state.pending['by']}"
    elif (pointer.stable if pointer else None) != state.stable:
        found["under_way"] = f"the pointer says otherwise; `cityloop promote {task} --reconcile`"
    return found


def _server(told: dict[str, Any], lives: bool) -> dict[str, Any]:
    tasks = {k: {"serves": v.get("stable"), "error": v.get("error")} for k, v in told.get("tasks", {}).items()}
    return {"lives": lives, "host": told.get("host"), "since": told.get("started"), "tasks": tasks}


def _fresh(city: Params, paths: Paths, source: str) -> dict[str, Any]:
    report = paths.metrics("validate", source)
    found: dict[str, Any] = {"window_until": city.window[source].isoformat() if source in city.window else None}
    if report.is_file():
        told = files.read_json(report)
        found |= {k: told[k] for k in ("age_h", "expectations", "quarantined", "records") if k in told}
    return found


def _watched(told: dict[str, dict[str, Any]]) -> list[str]:
    """How tasks do that are watched; a champion that came since has no figures yet."""
    if not told:
        return []
    lines = ["", "task                 decision   live this week          gate      drift              readings until"]
    for name, one in told.items():
        week, drift = one.get("week") or {}, one.get("drift")
        live = f"{_number(week.get('model'))} {one.get('unit') or ''} {one.get('metric') or ''}" if week else "–"
        changed = f", since {drift['changed_since']}" if drift and drift.get("changed_since") else ""
        drifted = f"{drift['drifted']} of {drift['tested']}{changed}" if drift else "–"
        decision, gate = one.get("decision") or "–", _number(one.get("gate"))
        lines.append(
            f"{name:<20} {decision:<10} {' '.join(live.split()):<23} {gate:<9} {drifted:<18} {one['until'][:16]}"
        )
    return lines


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def table(told: dict[str, Any]) -> str:
    """For a terminal."""
    lines = ["task                 serves         version  candidate                 waits for"]
    for name, task in told["tasks"].items():
        candidate = f"{task['candidate'][:12]} ({task['candidate_version']})" if task.get("candidate") else "–"
        waits = task.get("under_way") or task.get("waits_for") or ""
        serves = (task["champion"] or "nothing")[:12]
        lines.append(f"{name:<20} {serves:<14} {task.get('version') or '–':<8} {candidate:<25} {waits}".rstrip())
    lines += _watched({name: task["watched"] for name, task in told["tasks"].items() if task.get("watched")})
    lines += ["", "server                         lives  answers"]
    for name, server in told["servers"].items():
        answers = ", ".join(
            f"{k} {(v['serves'] or '–')[:8]}{'!' if v['error'] else ''}" for k, v in server["tasks"].items()
        )
        lines.append(f"{name:<30} {'yes' if server['lives'] else 'no':<6} {answers}")
    if not told["servers"]:
        lines.append("none; `cityloop serve` starts one")
    lines += ["", "source               data until             newest is    quarantined of records  checks failed"]
    for name, source in told["sources"].items():
        if "records" in source:
            counts = f"{source['quarantined']:,} of {source['records']:,}"
            age = f"{source['age_h']:.1f} h older" if source.get("age_h") is not None else "–"
            said = f"{age:<12} {counts:<23} {source.get('expectations', {}).get('failed') or '–'}"
        else:
            said = "not validated yet"
        lines.append(f"{name:<20} {(source['window_until'] or '–')[:16]:<22} {said}")
    return "\n".join([*lines, *(f"\ntrouble: {t}" for t in told["trouble"])])
