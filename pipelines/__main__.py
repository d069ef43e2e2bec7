"""The `cityloop` command: one sub-command a room. Rooms are imported when they are run, not before."""

import importlib
import sys
from pathlib import Path
from typing import Any

import click

from pipelines.core import log
from pipelines.core.errors import UserError

STAGES = {
    "ingest": ("SOURCE", "Fetch a source's window into day files under data/raw/.", "cityloop ingest traffic"),
    "validate": (
        "SOURCE",
        "Hold a source to its contract; split it into validated and quarantine.",
        "cityloop validate air",
    ),
    "features": ("SOURCE", "Put a validated source on its regular grid.", "cityloop features energy"),
    "corpus": (
        "BACKBONE",
        "Collect what a backbone may learn from: each source up to its cut.",
        "cityloop corpus series",
    ),
    "pretrain": ("BACKBONE", "Pretrain a backbone on its corpus, without labels.", "cityloop pretrain series"),
    "join": ("TASK", "Put a task's target and inputs on one grid.", "cityloop join traffic_speed"),
    "finetune": ("TASK", "Adapt the backbone to a task and export the bundle.", "cityloop finetune traffic_speed"),
    "evaluate": ("TASK", "Score the bundle on the frozen test beside its baselines.", "cityloop evaluate air_quality"),
    "card": ("TASK", "Write the model card and the registration request.", "cityloop card water_leak"),
}
"""Rooms that DVC runs: (key, what it does, example)."""


class Command(click.Command):
    """A command that turns a UserError into one line and its exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(error.exit_code)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: cityloop ingest traffic. The whole graph: dvc repro, then cityloop register --all.",
)
@click.option(
    "-C",
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="The city's folder, with params.yaml.",
)
@click.option("-v", "--verbose", is_flag=True, help="Say more.")
@click.version_option(package_name="cityloop")
@click.pass_context
def main(ctx: click.Context, root: Path, verbose: bool) -> None:
    """A city's models from raw feeds to serving. Each sub-command is a room of the house."""
    log.setup(verbose)
    ctx.obj = root


def _stage(name: str, key: str, what: str, example: str) -> click.Command:
    @click.argument("key", metavar=key)
    @click.pass_obj
    def run(root: Path, key: str) -> None:
        importlib.import_module(f"pipelines.{name}").run(key, root=root)

    return click.command(name, cls=Command, help=what, epilog=f"Example: {example}")(run)


for _name, (_key, _what, _example) in STAGES.items():
    main.add_command(_stage(_name, _key, _what, _example))


@main.command(cls=Command, epilog="Example: cityloop register --all")
@click.argument("task", required=False)
@click.option("--all", "everything", is_flag=True, help="Every task that has a card.")
@click.pass_obj
def register(root: Path, task: str | None, everything: bool) -> None:
    """Register a task's bundle as a model version in MLflow, once for each digest."""
    from pipelines import register as room

    room.run(task, everything=everything, root=root)


@main.command(cls=Command, epilog="Example: cityloop tune air_quality --trials 30")
@click.argument("task")
@click.option(
    "--trials", type=click.IntRange(1), default=20, show_default=True, help="In all, those of earlier calls too."
)
@click.option(
    "--metric", default="loss", show_default=True, help="On validation: loss, or the task's own (mae, macro_f1)."
)
@click.pass_obj
def tune(root: Path, task: str, trials: int, metric: str) -> None:
    """Search fine-tuning settings of a task by validation alone; print the command that tries the best of them.

    Called again it goes on where it was. No stage's output is touched: the trials lie in the city's state, under tune/.
    """
    from pipelines import tune as room

    click.echo(room.run(task, trials, metric, root=root))


@main.command(cls=Command, epilog='Example: cityloop window --until "2025-04-08"')
@click.option("--until", required=True, help="An ISO date or date-time, UTC.")
@click.argument("sources", nargs=-1)
@click.pass_obj
def window(root: Path, until: str, sources: tuple[str, ...]) -> None:
    """Set where the windows of SOURCES (default: all) end, in window.yaml."""
    from pipelines import window as room

    room.run(sources, until, root=root)


@main.command(cls=Command, epilog="Example: cityloop city examples/real_city")
@click.argument("folder", type=click.Path(path_type=Path))
@click.pass_obj
def city(root: Path, folder: Path) -> None:
    """Make or renew a workspace for the city whose params.yaml and window.yaml are in FOLDER; print its path."""
    from pipelines import city as room

    click.echo(room.run(folder, root=root))


if __name__ == "__main__":
    sys.exit(main(prog_name="cityloop"))
