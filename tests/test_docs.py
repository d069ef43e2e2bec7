"""What the documentation shows can be written: its YAML, laid over the simulated city, is a city."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.core import params
from pipelines.core.params import Params

ROOT = Path(__file__).resolve().parents[1]
TEXTS = [path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [b for text in TEXTS for b in re.findall(r"^```yaml\n(.+?)^```", text, re.MULTILINE | re.DOTALL)]


def over(base: Any, more: Any) -> Any:
    """`base` with the keys of `more` put in, level by level."""
    if not isinstance(base, dict) or not isinstance(more, dict):
        return more
    return {**base, **{k: over(base.get(k), v) for k, v in more.items()}}


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: " ".join(block.split())[:40])
def test_shown_settings_are_taken(block: str) -> None:
    city = Params.model_validate(over(params.read_yaml(ROOT / "params.yaml"), yaml.safe_load(block)))
    for group, entries in yaml.safe_load(block).items():
        known = getattr(city, group)
        assert set(entries) <= set(known if isinstance(known, dict) else type(known).model_fields)


def test_direct_dependencies_each_have_a_line() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [*project["dependencies"], *(n for extra in project["optional-dependencies"].values() for n in extra)]
    packages = {re.split(r"[<>=\[]", name)[0] for name in named} - {project["name"]}
    said = re.findall(r"^\| (.+?) \|", (ROOT / "docs/dependencies.md").read_text(), re.MULTILINE)
    lines = {re.split(r"\[", name)[0] for cell in said for name in cell.split(", ")}
    assert packages - lines == set()
