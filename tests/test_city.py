import subprocess
from pathlib import Path

import pytest

from pipelines import city
from pipelines.core import keys
from pipelines.core.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


def git(repo: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", str(repo), *words], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small checkout with one commit: some code, parameters, an example city."""
    monkeypatch.delenv("CITYLOOP_STATE", raising=False)
    top = tmp_path / "checkout"
    (top / "pipelines").mkdir(parents=True)
    (top / "examples/harbour").mkdir(parents=True)
    (top / "pipelines/ingest.py").write_text("ONE = 1\n")
    (top / "pipelines/gone.py").write_text("")
    (top / ".gitignore").write_text("/.cityloop/\n/data/\n")
    for name in ("params.yaml", "window.yaml"):
        text = (ROOT / name).read_text()
        (top / name).write_text(text)
        (top / "examples/harbour" / name).write_text(text.replace("name: simulated", "name: harbour"))
    git(tmp_path, "init", "-q", str(top))
    git(top, "add", "-A")
    git(top, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "first")
    return top


def test_the_workspace_is_the_checkout_as_it_stands_with_the_citys_parameters(checkout: Path) -> None:
    (checkout / "pipelines/ingest.py").write_text("ONE = 2\n")  # not committed
    (checkout / "pipelines/new.py").write_text("NEW = 1\n")  # not even added
    (checkout / "pipelines/gone.py").unlink()
    (checkout / "data").mkdir()
    (checkout / "data/big").write_text("ignored")
    before = git(checkout, "status", "--porcelain")
    place = city.run(checkout / "examples/harbour", root=checkout)
    assert place == checkout / ".cityloop/cities/harbour"
    assert (place / "pipelines/ingest.py").read_text() == "ONE = 2\n"
    assert (place / "pipelines/new.py").exists()
    assert not (place / "pipelines/gone.py").exists()
    assert not (place / "data").exists()
    assert "name: harbour" in (place / "params.yaml").read_text()
    assert git(place, "branch", "--show-current") == "live"
    assert keys.commit(place) == (git(place, "rev-parse", "HEAD"), False)
    assert git(checkout, "status", "--porcelain") == before


def test_a_second_call_commits_nothing_and_touches_nothing(checkout: Path) -> None:
    place = city.run(checkout / "examples/harbour", root=checkout)
    head, stamp = git(place, "rev-parse", "HEAD"), (place / "params.yaml").stat().st_mtime_ns
    assert city.run(checkout / "examples/harbour", root=checkout) == place
    assert git(place, "rev-parse", "HEAD") == head
    assert (place / "params.yaml").stat().st_mtime_ns == stamp


def test_renewing_takes_new_code_and_keeps_what_the_city_made(checkout: Path) -> None:
    place = city.run(checkout / "examples/harbour", root=checkout)
    (place / "data").mkdir()
    (place / "data/made").write_text("1")
    (place / "dvc.lock").write_text("stages: {}\n")
    (checkout / "pipelines/ingest.py").write_text("ONE = 3\n")
    git(checkout, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qam", "second")
    city.run(checkout / "examples/harbour", root=checkout)
    assert (place / "pipelines/ingest.py").read_text() == "ONE = 3\n"
    assert (place / "data/made").exists()
    assert "dvc.lock" in git(place, "ls-files")
    assert git(place, "status", "--porcelain") == ""
    second = git(checkout, "rev-parse", "HEAD")
    assert git(place, "merge-base", "HEAD", second) == second


def test_the_checkouts_own_lock_stays_out(checkout: Path) -> None:
    (checkout / "dvc.lock").write_text("stages: {made: here}\n")
    place = city.run(checkout / "examples/harbour", root=checkout)
    assert not (place / "dvc.lock").exists()


def test_a_faulty_city_makes_no_workspace(checkout: Path) -> None:
    with pytest.raises(UserError, match=r"params\.yaml: no such file"):
        city.run(checkout / "examples", root=checkout)
    params = checkout / "examples/harbour/params.yaml"
    params.write_text(params.read_text().replace("timezone:", "timezon:"))
    with pytest.raises(UserError, match="timezon"):
        city.run(checkout / "examples/harbour", root=checkout)
    assert not (checkout / ".cityloop").exists()


def test_outside_a_git_checkout_it_says_so(city_files: Path) -> None:
    with pytest.raises(UserError, match="a git checkout with a commit is needed"):
        city.run(city_files, root=city_files)
