"""`dvc.lock` by its text: entries are moved about whole, byte for byte, and never written anew.

A loader and a dumper of YAML that are not DVC's own would turn an entry's `no` into `false`, or leave a hash such as
`12e34…` without quotes; and its own take seconds.
"""

import functools
import json
import re
from dataclasses import dataclass
from typing import Any

import yaml

from pipelines.core.errors import UserError

FILE = "dvc.lock"
_HEAD = "schema: '2.0'\nstages:\n"
_ENTRY = re.compile(r"^  (?P<name>[^\s#][^\n]*?):\n(?P<body>(?:(?:    [^\n]*)?\n)*)", re.MULTILINE)


def split(text: str) -> dict[str, str]:
    """Stage → the text of its entry. Raises UserError for a text that is not as DVC writes it."""
    if "\nstages:\n" not in text:
        return {}
    body = text.partition("\nstages:\n")[2]
    entries = {m["name"].strip("'\""): m[0] for m in _ENTRY.finditer(body)}
    if sum(map(len, entries.values())) != len(body):
        raise UserError(f"{FILE}: not as DVC writes it (a merge by hand?); `dvc repro` in a checkout of it mends it")
    return entries


def join(entries: dict[str, str]) -> str:
    return _HEAD + "".join(entries.values()) if entries else "schema: '2.0'\n"


@dataclass(frozen=True)
class Entry:
    """What an entry says: the command, hashes by path of what was used and made, parameters by file and key."""

    cmd: Any
    deps: dict[str, str]
    outs: dict[str, str]
    params: dict[str, dict[str, Any]]


@functools.lru_cache(4096)
def parse(text: str) -> Entry:
    """Values of parameters as DVC reads them, in JSON's terms."""
    from pipelines.runs.dvc import read_yaml

    (entry,) = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)).values()  # noqa: S506 (safe)
    params = re.search(r"^    params:\n(?:     [^\n]*\n)+", text, re.MULTILINE)
    return Entry(
        entry["cmd"],
        {d["path"]: str(d.get("md5", "")) for d in entry.get("deps", [])},
        {o["path"]: str(o.get("md5", "")) for o in entry.get("outs", [])},
        json.loads(json.dumps(read_yaml(params[0])["params"])) if params else {},
    )
