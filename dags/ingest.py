"""A source's data, by its own clock: ingest → validate → features → merged into `live`."""

from airflow.sdk import Param
from cityloop_airflow import city, house, pages, stages

CITY = city.load()

for source in filter(lambda s: city.asked_for(f"ingest_{s.name}"), CITY.sources.values()):
    until = Param(CITY.until, type="string", pattern=house.UNTIL, title="Window ends", description=house.UNTIL_SAYS)
    with house.dag(
        f"ingest_{source.name}",
        pages.ingest(source, CITY),
        owner=source.department,
        tags={"ingest", source.department},
        what=source.about or f"Data of {source.name}",
        schedule=source.schedule,
        params={"until": until},
    ):
        plan = stages.plan(f"features@{source.name}")
        stages.begin(source.name, "--until={{ params.until }}") >> plan
        made = stages.stages(dict.fromkeys(("ingest", "validate", "features"), source.name), plan)
        stages.merge([made["features"]], [house.source(source.name)], whole=True)
