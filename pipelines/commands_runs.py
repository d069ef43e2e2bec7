"""Commands of runs: the graph stage by stage, each stage in a workspace of its own, and branch `live` moved on."""

import json
import time
from pathlib import Path
from typing import Any

import click

from pipelines.commands import as_json, command
from pipelines.core.errors import UserError

DAY_S = 86_400


@command("cityloop deploy")
@click.argument("source", default="main")
def deploy(root: Path, source: str) -> None:
    """Bring the code and parameters of branch or commit SOURCE to `live`.

    Prints live's commit. Its dvc.lock and window.yaml are its own: nothing conflicts.
    """
    from pipelines.runs import start

    click.echo(start.deploy(source, root=root))


@command("cityloop begin --until 2025-04-08")
@click.argument("sources", nargs=-1)
@click.option("--until", help="Where the windows of SOURCES (default: all) end: ISO, now or +1d; default: as they are.")
@click.option("--run", help="A name, such as a scheduler's; default: the time, and a few random letters.")
@as_json
def begin(root: Path, sources: tuple[str, ...], until: str | None, run: str | None, plain: bool) -> None:
    """Begin a run at live's head, its windows fixed; print its name."""
    from pipelines.runs import start

    name = start.begin(run, until, sources, root=root)
    click.echo(json.dumps(start.told_of(name, root=root)) if plain else name)


@command("cityloop plan nightly-7 card@air_quality")
@click.argument("run")
@click.argument("targets", nargs=-1)
@click.option("--needed", is_flag=True, help="Exit code 3 when nothing would change.")
@as_json
def plan(root: Path, run: str, targets: tuple[str, ...], needed: bool, plain: bool) -> None:
    """Say which stages of RUN would change, or may, in an order to run them in.

    TARGETS: these stages and what they need; default: all.
    """
    from pipelines.runs import start

    planned = start.plan(run, targets, root=root)
    if plain:
        click.echo(json.dumps(start.as_json(planned)))
    else:
        start.told(planned)
    if needed and not planned:
        raise click.exceptions.Exit(3)


@command("cityloop run-stage validate@air --run nightly-7")
@click.argument("stage")
@click.option("--run", required=True, help="As `cityloop begin` named it.")
@click.option("--former", multiple=True, help="A stage that failed in this run; its earlier output may stand in.")
def run_stage(root: Path, stage: str, run: str, former: tuple[str, ...]) -> None:
    """Make STAGE in a workspace of its own and push its entry; print one line of JSON. Repeating it does no harm."""
    from pipelines.runs import stage as room

    click.echo(json.dumps(room.run_stage(stage, run, former=former, root=root).line()))


@command("cityloop merge-run nightly-7")
@click.argument("run")
@as_json
def merge_run(root: Path, run: str, plain: bool) -> None:
    """Bring what succeeded in RUN to `live` in one commit, and print it."""
    from pipelines.runs import merge, start

    commit = merge.merge_run(run, root=root)
    click.echo(json.dumps({**start.told_of(run, root=root), "commit": commit}) if plain else commit)


@command("cityloop run --until 2025-04-08 --jobs 2")
@click.argument("targets", nargs=-1)
@click.option("--until", help="Where the windows end; default: where they do now.")
@click.option("--jobs", type=click.IntRange(1), help="Stages at once; default: by the machine.")
@click.option("--run", "name", help="Go on with this run.")
@click.option("--no-merge", "apart", is_flag=True, help="Make the stages alone: somebody else merges and registers.")
def run(
    root: Path, targets: tuple[str, ...], until: str | None, jobs: int | None, name: str | None, apart: bool
) -> None:
    """Run what is out of date, in parallel; merge it into `live`; register.

    TARGETS: these stages and what they need; default: all. A stage that fails stops what needs it, and nothing else;
    then the exit code is not 0.
    """
    from pipelines.runs import restore
    from pipelines.runs import run as room

    outcome = room.run(until, jobs, targets=targets, run=name, merged=not apart, root=root)
    if not apart and any(stage.startswith("card@") for stage in outcome.done):
        registered = restore.publish(outcome.commit, "register", "--all", root=root)
        if registered:
            raise click.exceptions.Exit(registered)
    if apart:
        click.echo(json.dumps({"run": outcome.run, "done": outcome.done, "failed": outcome.failed}))
    outcome.require()


@command("cityloop retrain traffic_speed --live")
@click.argument("task", required=False)
@click.option(
    "--validation-from", help="Where validation begins, ISO; default: as decided, or by the task's `monitor`."
)
@click.option("--test-from", help="Where the test begins.")
@click.option("--start", help="Learn from nothing earlier: since the city changed, say.")
@click.option("--init", metavar="DIGEST", help="Go on from this bundle of the store; default: what serves.")
@click.option("--from-backbone", is_flag=True, help="Go on from no bundle.")
@click.option("--clear", is_flag=True, help="Back to the dates of params.yaml.")
@click.option("--live", is_flag=True, help="On branch `live`, as a commit, rather than in this folder.")
@as_json
def retrain(
    root: Path, task: str | None, live: bool, clear: bool, plain: bool, from_backbone: bool, **given: Any
) -> None:
    """Have TASK trained anew, as `cityloop monitor` decided, or on dates given here: writes retrain.yaml.

    Exit code 4 when the decision is another. The same again changes nothing. Without TASK: say which tasks are.
    """
    from pipelines import retrain as room

    if task is None:
        click.echo(json.dumps(room.listed(root), indent=None if plain else 2))
        return
    asked = room.Asked(**given, backbone=from_backbone)
    if clear and asked != room.Asked():
        raise UserError("--clear goes back to the dates of params.yaml; it takes no others")
    told = room.Told(None, ("by hand",)) if clear else room.wanted(task, asked, root=root)
    entry, commit = told.entry.plain() if told.entry else None, None
    if live:
        from pipelines.runs import retrain as of_live

        head = f"Train {task} anew" if entry else f"{task} by the dates of params.yaml again"
        commit, changed = of_live.commit(task, told.words, "\n".join([head, "", *told.reasons]), root=root)
    else:
        changed = room.write(task, told, root=root)
    if plain:
        click.echo(json.dumps({"task": task, "changed": changed, "entry": entry, "commit": commit}))
    else:
        click.echo(room.sentence(task, told, changed))


@command("cityloop gc --days 30 --answers 400")
@click.option("--days", type=click.FloatRange(min=0), default=30, show_default=True, help="Keep what is younger.")
@click.option(
    "--answers", type=click.IntRange(min=1), metavar="DAYS", help="Forget logged answers that are older, in the store."
)
def gc(root: Path, days: float, answers: int | None) -> None:
    """Remove old runs and data of theirs in this machine's cache.

    What `live`, a branch, a kept release or a younger run needs stays. Answers are kept unless --answers is given; what
    `cityloop monitor` made of them stays.
    """
    from pipelines.runs import gc as room

    removed = room.gc(time.time() - days * DAY_S, root=root)
    click.echo(f"{len(removed.runs)} runs, {removed.files:,} files, {removed.bytes / 1e6:,.1f} MB removed")
    if answers:
        click.echo(f"{room.forget(answers, root=root):,} files of answers forgotten")


ALL = (deploy, begin, plan, run_stage, merge_run, run, retrain, gc)
