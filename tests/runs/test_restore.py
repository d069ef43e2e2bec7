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
