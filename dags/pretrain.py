"""A backbone, weekly, if there is anything new to learn from."""

from cityloop_airflow import city, house, pages, stages

CITY = city.load()

for backbone in filter(lambda b: city.asked_for(f"pretrain_{b.name}"), CITY.backbones.values()):
    with house.dag(
        f"pretrain_{backbone.name}",
        pages.pretrain(backbone, CITY),
        owner=city.PLATFORM,
        tags={"pretrain", backbone.modality},
        what=f"Backbone {backbone.name}, on every department's history",
        schedule=backbone.schedule,
    ):
        plan, upstream = stages.plan(f"pretrain@{backbone.name}"), stages.upstream(CITY)
        stages.begin() >> plan >> upstream
        made = stages.stages(dict.fromkeys(("corpus", "pretrain"), backbone.name), upstream)
        stages.merge([plan, upstream, *made.values()], [house.backbone(backbone.name)])
