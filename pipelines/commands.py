"""Commands of what has an effect elsewhere: registry, store, servers. Those that DVC runs are in `__main__`."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipelines.core.errors import UserError

if TYPE_CHECKING:
    from pipelines.watch.kept import Kept

as_json = click.option("--json", "plain", is_flag=True, help="For programs: JSON.")
of_live = click.option("--live", is_flag=True, help="At the candidate's commit of `live`, by that commit's data.")
of_head = click.option("--live", is_flag=True, help="At the head of `live`, by the data it has.")
by_name = click.option("--as", "name", metavar="NAME", help="Who does this; default: the user of this machine.")


class Command(click.Command):
    """A command that turns a UserError into one line and its exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(error.exit_code)


def _at_its_commit(root: Path, task: str, *words: str, digest: str | None = None) -> int:
    """`cityloop WORDS` where candidate or `digest` was made: at its commit of live, with the data it is judged by."""
    from pipelines import review as room
    from pipelines.runs import restore

    commit = room.told(task, digest=digest, root=root)["commit"]
    folders = [folder.format(task) for folder in restore.JUDGED]
    return restore.publish(commit, *words, folders=folders, root=root)


def _at_live(root: Path, what: str, task: str, given: dict[str, str | None]) -> "Kept":
    """`cityloop WHAT TASK` at live's head, with the data that watching TASK takes; ends with its exit code, if not 0.

    Gives what is known of TASK then.
    Raises Refused (exit code 4) where there is nothing to do yet: a scheduler asks long before a task serves.
    """
    from pipelines.core.errors import Refused
    from pipelines.core.paths import Paths
    from pipelines.release import predictions
    from pipelines.release.store import Store
    from pipelines.runs import restore
    from pipelines.watch.kept import Kept

    store = Store.of(Paths(root))
    pointer = store.pointer(task)
    if what == "predict" and not (pointer and pointer.stable):
        raise Refused(f"{task}: no release serves yet, so none can answer")
    if what == "monitor" and not store.objects.names(f"{predictions.FOLDER}/{task}"):
        raise Refused(f"{store.where}: nothing was answered of {task} yet")
    options = [word for option, value in given.items() if value for word in (option, value)]
    if code := restore.watch(task, what, task, *options, root=root):
        raise click.exceptions.Exit(code)
    return Kept(store.objects, task)


def _bring(root: Path, task: str, digest: str) -> None:
    """For the watching promoter; raises UserError where the promotion, which has said why, did not come about."""
    if code := _at_its_commit(root, task, "promote", task, "--digest", digest, "--as", "promoter", digest=digest):
        raise UserError(f"{task}: {digest[:12]} was not promoted (exit code {code})")


def _back(root: Path, task: str, to: str, why: str) -> None:
    """For monitor: go back to a release."""
    from pipelines import promote as room

    room.rollback(task, to=to, by="monitor", why=why, root=root)


def command(example: str) -> Callable[[Callable[..., None]], click.Command]:
    """A command of the house's kind, given the city's folder first, with an example in its help."""
    kind = click.command(cls=Command, epilog=f"Example: {example}")
    return lambda function: kind(click.pass_obj(function))


@command("cityloop register --all")
@click.argument("task", required=False)
@click.option("--all", "everything", is_flag=True, help="Every task that has a card.")
@click.option("--commit", help="What this commit of `live` made, rather than what lies here.")
@as_json
def register(root: Path, task: str | None, everything: bool, commit: str | None, plain: bool) -> None:
    """Register a task's bundle as a model version in MLflow, once for each digest."""
    if commit:
        from pipelines.runs import restore

        words = [*([task] if task else []), *(["--all"] if everything else []), *(["--json"] if plain else [])]
        raise click.exceptions.Exit(restore.publish(commit, "register", *words, root=root))
    from pipelines import register as room

    for made in room.run(task, everything=everything, root=root):
        if plain:
            click.echo(json.dumps(made))


@command("cityloop gate --all")
@click.argument("task", required=False)
@click.option("--all", "everything", is_flag=True, help="Every task that has a candidate.")
@of_live
@as_json
def gate(root: Path, task: str | None, everything: bool, live: bool, plain: bool) -> None:
    """Judge a task's candidate beside champion and baselines; put the verdict on its page in MLflow.

    Exit code 4 when it is judged and fails.
    """
    from pipelines import gate as room

    if live:
        if task is None:
            raise UserError("--live judges one task; name it: cityloop gate traffic_speed --live")
        raise click.exceptions.Exit(_at_its_commit(root, task, "gate", task, *(["--json"] if plain else [])))
    room.run(task, everything=everything, root=root, tell=(lambda t: click.echo(json.dumps(t))) if plain else None)


@command("cityloop review traffic_speed --approve --as ada")
@click.argument("task")
@click.option("--approve", "decision", flag_value="approved", help="Say yes to this very bundle.")
@click.option("--reject", "decision", flag_value="rejected", help="Say no to it.")
@click.option("--as", "name", metavar="NAME", help="Who says so.")
@click.option("--note", help="Why, for those who come later.")
@click.option("--key", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Private key (PEM): proof.")
@click.option("--version", help="Another version than the candidate.")
@click.option("--digest", "expected", help="What the answer is about; another bundle is refused with exit code 4.")
@as_json
def review(root: Path, task: str, plain: bool, **given: Any) -> None:
    """Show the card of a task's candidate, or say yes or no to it, as the tag in MLflow's page would."""
    from pipelines import review as room

    if given["decision"] or not plain:
        click.echo(room.run(task, **given, root=root), nl=given["decision"] is None)
    if plain:
        click.echo(json.dumps(room.told(task, version=given["version"], root=root)))


@command("cityloop promote traffic_speed")
@click.argument("tasks", nargs=-1)
@click.option("--reconcile", is_flag=True, help="Finish or undo what was interrupted; mend pointer and aliases.")
@click.option("--watch", is_flag=True, help="Go on: promote whatever is approved, as soon as it is.")
@click.option("--digest", help="This bundle of a single task, or none: another candidate is refused.")
@of_live
@by_name
@as_json
def promote(
    root: Path, tasks: tuple[str, ...], reconcile: bool, watch: bool, digest: str | None, live: bool, name: str | None,
    plain: bool,
) -> None:  # fmt: skip
    """Bring the approved candidate of TASKS to serving. With --watch or --reconcile, no TASKS means all.

    Exit code 4 when the gate, the reviewers or the servers refuse it.
    """
    from pipelines import promote as room

    if reconcile:
        room.reconcile(list(tasks), root=root)
    elif watch:
        room.watch(list(tasks), root=root, bring=functools.partial(_bring, root) if live else None)
    elif not tasks:
        raise UserError("name a task: cityloop promote traffic_speed")
    elif digest and len(tasks) > 1:
        raise UserError("--digest is of one task; name that one alone")
    for task in () if reconcile or watch else tasks:
        if live:
            said = {"--digest": digest, "--as": name}
            words = [word for option, value in said.items() if value for word in (option, value)]
            words += ["--json"] if plain else []
            if code := _at_its_commit(root, task, "promote", task, *words, digest=digest):
                raise click.exceptions.Exit(code)
            continue
        told = room.run(task, digest=digest, by=name, root=root)
        if plain:
            click.echo(json.dumps(told))


@command("cityloop rollback traffic_speed --to 3")
@click.argument("task")
@click.option("--to", metavar="VERSION", help="A version, or the first 8 digits of a digest, that served once.")
@click.option("--why", default="", help="For those who come later.")
@by_name
def rollback(root: Path, task: str, to: str | None, why: str, name: str | None) -> None:
    """Serve again what served before; stops a promotion that is under way. Needs no registry."""
    from pipelines import promote as room

    room.rollback(task, to=to, by=name, why=why, root=root)


@command("cityloop history traffic_speed --at 2025-04-07T08:00:00Z")
@click.argument("task")
@click.option("--at", metavar="TIME", help="What answered then (ISO, UTC).")
@as_json
def history(root: Path, task: str, at: str | None, plain: bool) -> None:
    """What served when, who said so, why, and on which data."""
    from pipelines import history as room

    records = room.run(task, at=at, root=root)
    click.echo(json.dumps(records, indent=2) if plain else room.table(records))


@command("cityloop status")
@as_json
def status(root: Path, plain: bool) -> None:
    """Show what serves, what waits, which servers live; and how fresh data are."""
    from pipelines import status as room

    told = room.run(root=root)
    click.echo(json.dumps(told, indent=2) if plain else room.table(told))


@command("cityloop verify traffic_speed --digest 5f0c…")
@click.argument("task")
@click.option("--digest", required=True, help="Of the release that is to serve.")
def verify(root: Path, task: str, digest: str) -> None:
    """Ask whether every server that lives answers TASK with this release.

    Exit code 4 when one does not.
    """
    from pipelines import status as room

    living = room.verify(task, digest, root=root)
    click.echo(f"{living} servers answer {task} with {digest[:12]}" if living else "no server lives; nothing to ask")


@command('cityloop predict traffic_speed --until "2025-04-07"')
@click.argument("task")
@click.option("--until", metavar="TIME", help="When the forecast is made (ISO, UTC); default: the window's end.")
@click.option("--every", metavar="SPAN", help="And so long before, as 1h, back to --since, or to the newest.")
@click.option("--since", metavar="TIME", help="The earliest of many moments (ISO, UTC).")
@of_head
def predict(
    root: Path, task: str, until: str | None, every: str | None, since: str | None, live: bool
) -> None:  # fmt: skip
    """Write the champion's forecasts, or counts of what it sees, into the store."""
    from pipelines import predict as room

    if live:
        _at_live(root, "predict", task, {"--until": until, "--every": every, "--since": since})
        return
    room.run(task, until, since=since, every=every, root=root)


@command('cityloop monitor traffic_speed --until "2025-04-07"')
@click.argument("task")
@click.option("--until", metavar="TIME", help="Readings until then count (ISO, UTC); default: the window's end.")
@click.option("--report", type=click.Path(dir_okay=False, path_type=Path), help="Copy the page for people there.")
@of_head
@as_json
def monitor(root: Path, task: str, until: str | None, report: Path | None, live: bool, plain: bool) -> None:
    """Score what was answered by what was read since: the live error.

    --json prints all of it; with --live the decision alone, in one line.
    """
    from pipelines import monitor as room
    from pipelines.core import files
    from pipelines.core.paths import Paths
    from pipelines.release.store import Store
    from pipelines.watch import said
    from pipelines.watch.kept import Kept

    if live:
        kept = _at_live(root, "monitor", task, {"--until": until})
    else:
        told = room.run(task, until, root=root, back=functools.partial(_back, root))
        kept = Kept(Store.of(Paths(root)).objects, task)
    if report:
        files.write_bytes(report, kept.objects.get(kept.key("report.html")))
    if live:
        return click.echo(json.dumps(kept.read("decision.json"))) if plain else None
    if plain:
        click.echo(files.to_json(told).decode(), nl=False)
    else:
        click.echo(said.line(told["decision"]))


@command("cityloop metrics --port 9108")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("--port", type=click.IntRange(0, 65535), default=9108, show_default=True, help="0: a free one.")
@click.option("--live", is_flag=True, help="Windows and reports of data as branch live has them.")
def metrics(root: Path, host: str, port: int, live: bool) -> None:
    """Answer Prometheus: what serves, waits, drifts."""
    from pipelines.watch import exporter

    if live:
        from pipelines.runs.live import Live

        exporter.run(root=root, host=host, port=port, live=Live(root))
    else:
        exporter.run(root=root, host=host, port=port)


@command("cityloop serve --port 8080")
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Where to listen; others than this machine need keys."
)
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0: a free one.")
@click.option("--no-auth", is_flag=True, help="Let everybody on this machine ask; on a loopback address only.")
@click.option("--threads", type=click.IntRange(1), help="That infer; default: one a core.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Requests a second of one key; default: 200.")
@click.option(
    "--log-share",
    type=click.FloatRange(0, 1),
    default=1.0,
    show_default=True,
    help="Of requests, in the prediction log.",
)
def serve(root: Path, **given: Any) -> None:
    """Answer requests with what was promoted, until SIGTERM. One process is one replica; start as many as you like."""
    from pipelines.serve import main

    main.run(root=root, **given)


@command("cityloop keys add tram-app --task traffic_speed --days 90")
@click.argument("what", type=click.Choice(["add", "list", "revoke"]))
@click.argument("name", required=False)
@click.option("--task", "tasks", multiple=True, help="That the key may ask; again for more. Default: all.")
@click.option(
    "--days", type=click.FloatRange(min=0, min_open=True), help="How long it is good; default: until revoked."
)
def keys(root: Path, what: str, name: str | None, tasks: tuple[str, ...], days: float | None) -> None:
    """API keys of servers: add one (it is shown once), list or revoke them."""
    from pipelines.serve import keys as room

    if what == "list":
        for entry in room.listed(root=root):
            click.echo(f"{entry['name']:<24} {', '.join(entry['tasks']):<40} {entry['expires'] or 'until revoked'}")
    elif name is None:
        raise UserError(f"whose key? cityloop keys {what} NAME")
    elif what == "add":
        click.echo(room.add(name, tasks or ("*",), days, root=root))
    else:
        room.revoke(name, root=root)


@command("cityloop tune air_quality --trials 30")
@click.argument("task")
@click.option(
    "--trials", type=click.IntRange(1), default=20, show_default=True, help="In all, those of earlier calls too."
)
@click.option(
    "--metric", default="loss", show_default=True, help="On validation: loss, or the task's own (mae, macro_f1)."
)
def tune(root: Path, task: str, trials: int, metric: str) -> None:
    """Search fine-tuning settings of a task by validation alone; print the command that tries the best of them.

    Called again it goes on where it was. No stage's output is touched: the trials lie in the city's state, under tune/.
    """
    from pipelines import tune as room

    click.echo(room.run(task, trials, metric, root=root))


@command('cityloop window --until "2025-04-08"')
@click.option("--until", required=True, help="An ISO date or date-time, UTC.")
@click.argument("sources", nargs=-1)
def window(root: Path, until: str, sources: tuple[str, ...]) -> None:
    """Set where the windows of SOURCES (default: all) end, in window.yaml."""
    from pipelines import window as room

    room.run(sources, until, root=root)


@command("cityloop city examples/real_city")
@click.argument("folder", type=click.Path(path_type=Path))
def city(root: Path, folder: Path) -> None:
    """Make or renew a workspace for the city whose params.yaml and window.yaml are in FOLDER; print its path."""
    from pipelines import city as room

    click.echo(room.run(folder, root=root))


ALL = (
    register, gate, review, promote, verify, rollback, history, status,
    serve, metrics, keys, predict, monitor, tune, window, city,
)  # fmt: skip
