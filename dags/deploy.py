"""New code and parameters on `live`, what all tasks share made with them, and every task asked to look. By hand."""

from airflow.sdk import Param
from cityloop_airflow import city, house, pages, stages
from cityloop_airflow.command import command

CITY = city.load()
SOURCE = Param("main", type="string", pattern=r"^[A-Za-z0-9][\w./-]*$", title="Deploy", description="Branch or commit")

with house.dag(
    "deploy",
    pages.deploy(CITY),
    owner=city.PLATFORM,
    tags={"deploy"},
    what="New code and parameters on live",
    params={"source": SOURCE},
):
    begin, upstream = stages.begin(), stages.upstream(CITY)
    command("deploy", "deploy", "{{ params.source }}") >> begin >> upstream
    made = [begin, upstream]
    for name in CITY.backbones:
        rooms = dict.fromkeys(("corpus", "pretrain"), name)
        made += stages.stages(rooms, upstream, suffix=f"_{name}", group=f"backbone_{name}").values()
    stages.merge(made, [house.DEPLOYED])
