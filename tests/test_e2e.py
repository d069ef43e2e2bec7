"""The whole loop in a tiny city: feeds to registered versions, again, and a day later."""

from workspaces import Workspace

VERSIONS = """
import mlflow, pathlib
mlflow.set_tracking_uri("sqlite:///" + str(pathlib.Path(".cityloop/mlflow.db").resolve()))
client = mlflow.MlflowClient()
for model in sorted(client.search_registered_models(), key=lambda m: m.name):
    for version in client.search_model_versions(f"name='{model.name}'"):
        print(model.name, version.version, version.tags.get("digest"), version.tags.get("commit"))
"""


def versions(city: Workspace) -> list[list[str]]:
    """[name, version, digest, commit] of everything in the city's registry."""
    return [line.split() for line in city.run("python", "-c", VERSIONS).splitlines()]


def commit(city: Workspace) -> str:
    """Commit what a run derived, as `make run CITY=…` does; gives the commit."""
    city.run("git", "add", "--all")
    city.run("git", "commit", "-q", "--allow-empty", "-m", "What this run derived")
    return city.run("git", "rev-parse", "HEAD").strip()


def test_the_loop_again_and_a_day_later(looped: Workspace) -> None:
    head = commit(looped)
    looped.run("python", "-m", "pipelines", "register", "--all")
    first = versions(looped)
    assert [row[:2] for row in first] == [["air_quality", "1"], ["traffic_speed", "1"]]
    assert {row[3] for row in first} == {head}
    for name in ("air_quality", "traffic_speed"):
        assert (
            first[[row[0] for row in first].index(name)][2] in (looped.root / f"cards/{name}/request.json").read_text()
        )

    assert looped.repro() == []
    looped.run("python", "-m", "pipelines", "register", "--all")
    assert versions(looped) == first

    looped.run("python", "-m", "pipelines", "window", "--until", "2025-04-08", "air")
    ran = looped.repro()
    assert "corpus@series" in ran
    assert {"ingest@air", "evaluate@air_quality", "card@air_quality"} <= set(ran)
    assert "finetune@air_quality" not in ran, "a day of the test period changed what the task learns from"
    assert "pretrain@series" not in ran, "days after the cut changed what the backbone learns from"
    assert "finetune@traffic_speed" not in ran, "another department's day changed this task's data"
    assert looped.stale() == set()
    commit(looped)
    looped.run("python", "-m", "pipelines", "register", "--all")
    # The new day lies in the test period: nothing was trained, and the same bytes are one version.
    assert [row[:3] for row in versions(looped)] == [row[:3] for row in first]
