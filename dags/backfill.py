"""A source's data up to a date far ahead, in parts, one after another. By hand."""

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import Param, task
from cityloop_airflow import city, house, pages, stages
from cityloop_airflow.kinds import KINDS

CITY = city.load()
PARAMS = {
    "source": Param(min(CITY.sources), type="string", enum=sorted(CITY.sources), title="Source"),
    "until": Param("+30d", type="string", pattern=house.UNTIL, title="Window ends", description=house.UNTIL_SAYS),
    "parts": Param(4, type="integer", minimum=1, maximum=100, title="Parts"),
}


@task(retries=0, pool="cpu", doc_md=KINDS["parts"].page)
def parts(begun: dict, source: str, until: str, count: str) -> list[dict]:
    """What each part's run of `ingest_<source>` is told."""
    now = begun["windows"][source]
    first, last = city.instant(now), city.instant(until, now)
    if last <= first:
        raise ValueError(f"the window of {source} ends at {now} already; give a later `until`")
    ends = [first + (last - first) * (n + 1) / int(count) for n in range(int(count))]
    return [{"until": end.replace(microsecond=0).isoformat()} for end in ends]


with house.dag(
    "backfill",
    pages.backfill(),
    owner=city.PLATFORM,
    tags={"backfill", "ingest"},
    what="A source's data, in parts",
    params=PARAMS,
):
    divided = parts(stages.begin().output, "{{ params.source }}", "{{ params.until }}", "{{ params.parts }}")
    TriggerDagRunOperator.partial(
        task_id="part", trigger_dag_id="ingest_{{ params.source }}", wait_for_completion=True, deferrable=True,
        poke_interval=10, fail_when_dag_is_paused=True, max_active_tis_per_dagrun=1, retries=0, pool="cpu",
        execution_timeout=KINDS["part"].timeout, doc_md=KINDS["part"].page,
    ).expand(conf=divided)  # fmt: skip
