"""Workers whose DVC remote is an S3 server, which may go away for a while."""

import secrets
import time
from pathlib import Path

import pytest
from ceph import S3
from test_remote import Cluster, at, pulled
from test_run import ALL

from pipelines.core.errors import UserError
from pipelines.runs import merge, start
from pipelines.runs.run import run
from pipelines.runs.stage import run_stage


@pytest.fixture
def cluster(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster.make(tmp_path, s3.enter(monkeypatch, secrets.token_hex(4)))


@pytest.mark.slow
def test_a_remote_that_is_away_fails_the_stage_and_nothing_is_published_until_it_is_back(
    cluster: Cluster, s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = cluster.worker("one"), cluster.worker("two")
    # Ceph's one disk may stall for a minute on a busy machine; who runs again goes on from what is there.
    tries = [set(run(jobs=4, root=at(one, monkeypatch)).done) for _ in range(2)]
    assert tries[0] | tries[1] == ALL
    clone = pulled(cluster, tmp_path / "clone")
    assert "Data and pipelines are up to date." in clone.say("dvc", "repro")

    cluster.author.powers(2)
    cluster.publish()
    start.deploy(root=at(two, monkeypatch))
    name = start.begin(root=two.root)
    with s3.away("rgw"):
        began = time.monotonic()
        with pytest.raises(UserError, match="the DVC remote does not answer"):
            run_stage("fit@t1", name, root=two.root)
        assert time.monotonic() - began < 120, "it gives up while a scheduler still waits for it"
    assert [p.stage for p in start.plan(name, root=two.root)].count("fit@t1") == 1, "nothing was published"
    assert run_stage("fit@t1", name, root=two.root).state == "ran"
    commit = merge.merge_run(name, root=two.root)
    clone = pulled(cluster, tmp_path / "again")
    assert clone.git("rev-parse", "HEAD") == commit
    assert (clone.root / "models/t1/weights.txt").is_file()
