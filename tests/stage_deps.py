"""Which source files a stage depends on: what its room imports, transitively. Run as a script it rewrites dvc.yaml."""

import re
import sys
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parents[1]
DYNAMIC = re.compile(r'import_module\(\s*f"(pipelines[.\w]*)\.\{')
"""A registry: `importlib.import_module(f"pipelines.sources.{name}")` may load any module beside it."""


def room_files(rooms: list[str], root: Path = ROOT) -> dict[str, list[str]]:
    """By room, the files it runs on, as paths from `root`.

    Left out: the dispatcher, which only looks a room up, and package files with nothing in them.
    """
    sys.path.insert(0, str(root))
    graph = grimp.build_graph("pipelines", exclude_type_checking_imports=True, cache_dir=None)
    for module in sorted(graph.modules - {"pipelines.__main__"}):
        for package in DYNAMIC.findall(_file(module, root).read_text()):
            for sibling in graph.find_children(package):
                if sibling != module:
                    graph.add_import(importer=module, imported=sibling)
    return {room: _files(graph, f"pipelines.{room}", root) for room in rooms}


def _files(graph: grimp.ImportGraph, room: str, root: Path) -> list[str]:
    modules = {room} | graph.find_upstream_modules(room)
    packages = {".".join(m.split(".")[:i]) for m in modules for i in range(1, m.count(".") + 1)}
    files = {_file(m, root) for m in modules | packages}
    return sorted(f.relative_to(root).as_posix() for f in files if f.read_text().strip())


def _file(module: str, root: Path) -> Path:
    path = root / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def rewrite(text: str, files: dict[str, list[str]]) -> str:
    """dvc.yaml with the source files of each stage's `deps` replaced; other lines stay as they are."""
    out, stage = [], ""
    for line in text.splitlines():
        if match := re.fullmatch(r"  (\w+):", line):
            stage = match[1]
        if re.fullmatch(r"\s+- pipelines/\S+\.py", line):
            continue
        out.append(line)
        if re.fullmatch(r"\s+deps:", line):
            out += [f"        - {file}" for file in files.get(stage, [])]
    return "\n".join(out) + "\n"


def main() -> None:
    path = ROOT / "dvc.yaml"
    stages = re.findall(r"^  (\w+):$", path.read_text(), re.MULTILINE)
    there = [s for s in stages if (ROOT / f"pipelines/{s}.py").exists()]
    path.write_text(rewrite(path.read_text(), {**{s: [f"pipelines/{s}.py"] for s in stages}, **room_files(there)}))
    sys.stdout.write("dvc.yaml: " + ", ".join(there) + "\n")


if __name__ == "__main__":
    main()
