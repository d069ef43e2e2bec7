"""A task's model, when its data, its backbone, new code or its drift ask for one; up to a version in MLflow."""

from airflow.sdk import AssetAny
from cityloop_airflow import city, house, pages, stages
from cityloop_airflow.command import command

CITY = city.load()

for task in filter(lambda t: city.asked_for(f"train_{t.name}"), CITY.tasks.values()):
    asked_by = [house.source(name) for name in task.sources]
    asked_by += [house.backbone(task.backbone), house.drift(task.name), house.DEPLOYED]
    rooms = dict.fromkeys(("corpus", "pretrain"), task.backbone)
    rooms |= dict.fromkeys(("join", "finetune", "evaluate", "card"), task.name)
    with house.dag(
        f"train_{task.name}",
        pages.train(task, CITY),
        owner=task.department,
        tags={"train", task.department},
        what=task.question,
        schedule=AssetAny(*asked_by),
    ):
        plan, upstream = stages.plan(f"card@{task.name}"), stages.upstream(CITY)
        stages.begin() >> plan >> upstream
        made = stages.stages(rooms, upstream)
        merge = stages.merge([plan, upstream, *made.values()], [])
        commit = "--commit={{ ti.xcom_pull(task_ids='merge')['commit'] }}"
        merge >> command("register", "register", task.name, commit, "--json", outlets=[house.candidate(task.name)])
