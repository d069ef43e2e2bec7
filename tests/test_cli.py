import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pipelines.__main__ import main

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = sorted(main.commands)


def help_of(name: str) -> str:
    done = CliRunner().invoke(main, [name, "--help"])
    assert done.exit_code == 0
    return done.output


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_says_what_it_does_and_shows_an_example(name: str) -> None:
    text = help_of(name)
    assert re.search(r"^  [A-Z].*\.", text, re.MULTILINE), "no sentence on what it does"
    assert f"Example: cityloop {name}" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_each_example_is_a_command_line_the_parser_takes(name: str) -> None:
    import shlex

    found = re.search(r"Example: cityloop (.+)", help_of(name))
    assert found
    words = shlex.split(found[1])
    assert words[0] == name
    context = click.Context(main)
    main.commands[name].make_context(name, words[1:], parent=context)


def test_the_readme_or_the_docs_mention_each_command() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    text = "\n".join(page.read_text() for page in pages)
    assert [name for name in COMMANDS if not re.search(rf"cityloop {name}\b|`{name}`|\b{name}\.py", text)] == []


@pytest.mark.parametrize(("command", "what"), [("ingest", "source"), ("validate", "source"), ("features", "source")])
def test_an_unknown_source_is_one_line_with_the_nearest_name(command: str, what: str, city_files: Path) -> None:
    done = _cityloop("-C", str(city_files), command, "trafic")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == f"error: no {what} 'trafic' in params.yaml; did you mean 'traffic'?\n"


def test_a_wrong_key_in_params_is_one_line_that_names_file_path_and_remedy(city_files: Path) -> None:
    params = city_files / "params.yaml"
    params.write_text(params.read_text().replace("    horizon: 1h", "    horizn: 1h", 1))
    done = _cityloop("-C", str(city_files), "ingest", "traffic")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.endswith("params.yaml: tasks.traffic_speed.horizn: unknown key; did you mean 'horizon'?\n")


def test_a_folder_without_params_is_one_line(tmp_path: Path) -> None:
    done = _cityloop("-C", str(tmp_path), "ingest", "traffic")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "params.yaml: no such file" in done.stderr


def test_window_moves_the_sources_it_names_and_no_other(city_files: Path) -> None:
    assert _cityloop("-C", str(city_files), "window", "--until", "2025-05-01", "air").returncode == 0
    text = (city_files / "window.yaml").read_text()
    assert 'air: "2025-05-01"' in text
    assert 'energy: "2025-04-07"' in text
    before = text
    refused = _cityloop("-C", str(city_files), "window", "--until", "2020-01-01", "air")
    assert refused.returncode == 2
    assert "starts on 2024-10-07" in refused.stderr
    assert (city_files / "window.yaml").read_text() == before


def test_the_floor_plan_names_every_module_and_the_readme_stays_short() -> None:
    plan = (ROOT / "docs/floor-plan.md").read_text()
    modules = [p for p in (ROOT / "pipelines").rglob("*.py") if p.name not in ("__init__.py", "__main__.py")]
    assert [p.name for p in modules if not re.search(rf"\b{p.name}", plan)] == []
    assert len((ROOT / "README.md").read_text().splitlines()) < 150


def _cityloop(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipelines", *words], capture_output=True, text=True, cwd=ROOT, check=False
    )
