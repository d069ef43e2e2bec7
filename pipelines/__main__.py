"""The `cityloop` command: one sub-command a room. Rooms are imported when they are run, not before."""

import importlib
import sys
from pathlib import Path

import click

from pipelines import commands, commands_runs
from pipelines.core import log

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


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: cityloop ingest traffic. The whole graph: dvc repro, then cityloop register --all.",
)
@click.option(
    "-C",
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    envvar="CITYLOOP_ROOT",
    show_envvar=True,
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
    def run(root: Path, key: str) -> None:
        importlib.import_module(f"pipelines.{name}").run(key, root=root)

    made = commands.command(example)(run)
    made.name, made.help = name, what
    return made


for _name, (_key, _what, _example) in STAGES.items():
    main.add_command(_stage(_name, _key, _what, _example))


for _command in (*commands.ALL, *commands_runs.ALL):
    main.add_command(_command)


if __name__ == "__main__":
    sys.exit(main(prog_name="cityloop"))
