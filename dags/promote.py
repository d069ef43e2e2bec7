"""A candidate on its way to serving: gate → a person's yes → promote → verify, or rollback."""

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import Param, TriggerRule
from cityloop_airflow import city, house, notify, pages
from cityloop_airflow.command import command
from cityloop_airflow.kinds import KINDS
from cityloop_airflow.review import APPROVE, REJECT, Form, reviewed

CITY = city.load()
VERSION = "--version={{ ti.xcom_pull(task_ids='gate')['version'] }}"
DIGEST = "--digest={{ ti.xcom_pull(task_ids='gate')['digest'] }}"
ANSWER = "ti.xcom_pull(task_ids='form')"
BODY = """
{%- set gate, card = ti.xcom_pull(task_ids='gate'), ti.xcom_pull(task_ids='card_of') -%}
**Version {{ gate.version }}**, digest `{{ gate.digest }}`. Gate: **{{ gate.verdict }}**. {{ gate.why }}

{% if card.url %}[Its page in MLflow]({{ card.url }}){% endif %}

{{ card.card }}
"""


def form(task: city.Task) -> tuple:
    """Airflow's own form, and what records its answer."""
    card = command("card_of", "review", task.name, VERSION, "--json")
    note = Param("", type=["null", "string"], maxLength=400, title="Note", description="Why, for those who come later")
    asked = Form(
        task_id="form", subject=f"{task.name}: may this version serve?", body=BODY, options=[APPROVE, REJECT],
        params={"note": note}, response_timeout=task.review.expires, doc_md=KINDS["form"].page, retries=1, pool="cpu",
    )  # fmt: skip
    chosen = f"{{{{ '--approve' if {ANSWER}['chosen_options'] == ['{APPROVE}'] else '--reject' }}}}"
    who = f"--as={{{{ reviewer({ANSWER}['responded_by_user']) }}}}"
    why = f"{{{{ '--note=' ~ {ANSWER}['params_input']['note'] if {ANSWER}['params_input'].get('note') else '' }}}}"
    key = '${CITYLOOP_DOOR_KEY:+--key "$CITYLOOP_DOOR_KEY"}'
    record = command("record", "review", task.name, chosen, who, VERSION, DIGEST, why, "--json", tail=key)
    card >> asked >> record
    return card, record


for task in filter(lambda t: city.asked_for(f"promote_{t.name}"), CITY.tasks.values()):
    name, by_form = f"promote_{task.name}", task.review.door == "form"
    with house.dag(
        name,
        pages.promote(task, CITY),
        owner=task.department,
        tags={"promote", task.department},
        what=f"Gate, review and serving of {task.name}",
        schedule=[house.candidate(task.name)],
        deadline=notify.reminders(name, task.name, task.review.remind, task.review.expires),
        # A form that waits cannot be taken back: it must not keep a newer version from being shown.
        max_active_runs=4 if by_form else 1,
    ):
        gate = command("gate", "gate", task.name, "--live", "--json", skip_on=(4,))
        review = reviewed(task.name, VERSION, expires=task.review.expires)
        promote = command("promote", "promote", task.name, DIGEST, "--live", "--json")
        verify = command("verify", "verify", task.name, DIGEST)
        if by_form:
            card, record = form(task)
            gate >> card
            record >> review
        else:
            gate >> review
        why = "--why=verify failed in {{ dag.dag_id }}/{{ run_id }}"
        rollback = command(
            "rollback", "rollback", task.name, why, trigger_rule=TriggerRule.ONE_FAILED, after_failure_of="verify"
        )
        review >> promote >> verify >> [rollback, EmptyOperator(task_id="serves", doc_md=KINDS["serves"].page)]
