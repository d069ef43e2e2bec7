"""A commit of live with its data, for who publishes from it."""

import pytest
from toy import FILES, Toy

from pipelines.core.errors import UserError
from pipelines.runs import merge, restore, start


def test_an_earlier_commit_comes_back_as_it_was(toy: Toy) -> None:
    first = toy.git("rev-parse", "live")
    start.begin("second", "2025-01-04", ["a"], root=toy.root)
    toy.stage("raw@a", "second")
    second = merge.merge_run("second", root=toy.root)
    for commit, days in ((first, 2), (second, 3)):
        with restore.restored(commit, ["data"], root=toy.root) as place:
            assert len(list((place / "data/raw/a").iterdir())) == days
            assert not (place / "models").exists()
            assert toy.say("git", "status", "--porcelain", cwd=place) == ""
            assert toy.say("git", "rev-parse", "HEAD", cwd=place) == commit
        assert not place.exists()
    with pytest.raises(UserError, match="no such commit on live"), restore.restored("0" * 40, root=toy.root):
        pass


def test_publishing_runs_that_commits_own_code_with_the_citys_state(toy: Toy) -> None:
    main = FILES["pipelines/__main__.py"].replace(
        "what, key, *rest = sys.argv[1:]",
        """
if sys.argv[1] == "register":
    where = pathlib.Path(os.environ["CITYLOOP_STATE"]) / "registered"
    where.write_text(" ".join(sys.argv[2:]) + pathlib.Path("models/t6/weights.txt").read_text())
    sys.exit(7)
what, key, *rest = sys.argv[1:]""",
    )
    toy.commit("pipelines/__main__.py", main)
    commit = start.deploy(root=toy.root)
    toy.commit("pipelines/__main__.py", "raise SystemExit('the code of the checkout')")
    assert restore.publish(commit, "register", "--all", root=toy.root) == 7
    assert (toy.state / "registered").read_text() == "--all6"


def test_watching_sees_the_newest_data_joined_though_nothing_trained_on_it(toy: Toy) -> None:
    def seen() -> tuple[int, int, int]:
        with restore.watched("t1", root=toy.root) as place:
            joined = place / "data/joined/t1.txt"
            assert not (place / "models").exists()
            assert {p.name for p in (place / "data").iterdir()} == {"feat", "joined"}, "no more than it reads"
            cached = [p for p in (toy.root / ".dvc/cache").rglob("*") if p.is_file()]
            feature = place / "data/feat/a/sum.txt"
            assert any(feature.samefile(p) for p in cached), "linked, not copied"
            ran = (toy.state / "ran.txt").read_text().split() if (toy.state / "ran.txt").exists() else []
            return int(feature.read_text()), int(joined.read_text()), ran.count("join@t1")

    assert seen() == (3, 3, 0)
    start.begin("second", "2025-01-04", ["a"], root=toy.root)
    for stage in ("raw@a", "feat@a"):
        toy.stage(stage, "second")
    merge.merge_run("second", root=toy.root)
    head = toy.git("rev-parse", "live")
    assert seen() == (6, 6, 1)
    assert toy.git("rev-parse", "live") == head
    with pytest.raises(UserError, match="no stage 'join@t7'"), restore.watched("t7", root=toy.root):
        pass


def test_watching_ends_as_its_command_does(toy: Toy) -> None:
    main = FILES["pipelines/__main__.py"].replace(
        "what, key, *rest = sys.argv[1:]",
        """
if sys.argv[1] == "monitor":
    print(pathlib.Path(f"data/joined/{sys.argv[2]}.txt").read_text(), os.environ["CITYLOOP_STATE"])
    sys.exit(9)
what, key, *rest = sys.argv[1:]""",
    )
    toy.commit("pipelines/__main__.py", main)
    start.deploy(root=toy.root)
    assert restore.watch("t1", "monitor", "t1", root=toy.root) == 9
