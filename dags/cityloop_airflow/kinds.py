"""What an operator should know of each kind of task, in the words of the UI and of notifications; and how it is run."""

from dataclasses import dataclass
from datetime import timedelta

CPU, GPU, PROMOTE = "cpu", "gpu", "promote"
"""Airflow's pools. `promote` has one slot: what serves changes one thing at a time."""


@dataclass(frozen=True)
class Kind:
    """does: on a good day. means, wait, do: of a failure, for who is on duty. retries: only where repeating is safe."""

    does: str
    means: str
    wait: str
    do: str
    pool: str = CPU
    retries: int = 3
    timeout: timedelta = timedelta(minutes=30)

    @property
    def page(self) -> str:
        """The task's page in Airflow."""
        red = f"**When it is red:** {self.means}\n\n**Can it wait?** {self.wait}\n\n**What to do:** {self.do}"
        return f"{self.does}\n\n{red}"


SERVES = "Yes: what serves goes on answering, with the data of yesterday at worst."
CLEAR = "clear this task with *Downstream*: the run goes on from there."
AGAIN = f"Read the last lines of the log; mend what they name; {CLEAR}"

KINDS = {
    "begin": Kind(
        "Fixes what this run works at: the head of branch `live`, and where each source's data window ends.",
        "No run could begin; nothing was changed.", SERVES,
        f"See that the city's git remote answers and has a branch `live` (`cityloop deploy` makes one). {AGAIN}",
    ),
    "plan": Kind(
        "Asks which stages would change. When none would, everything after it is skipped and the run is green.",
        "What is to be done could not be found out; nothing was changed.", SERVES, AGAIN,
    ),
    "ingest": Kind(
        "Fetches the source's window into `data/raw/`, a file a day, personal data masked before anything is written.",
        "The feed could not be read. Live keeps the data it has, and the next run fetches the same window again.",
        "Yes, for as long as the source's contract allows old data (`freshness` in params.yaml).",
        f"Ask the department whether its feed is up; look at `sources.<source>.read` in params.yaml. {AGAIN}",
        timeout=timedelta(hours=6),
    ),
    "validate": Kind(
        "Holds each record to the source's contract; puts what breaks it into quarantine, with reasons.",
        "The batch is too broken to use (exit code 3), or could not be judged. Nothing of it reached `live`.",
        "Yes, while the batch is looked at: models go on with the data of before.",
        "Read which expectation failed, and by how much, in the log. Is the feed wrong, tell the department; is the "
        "contract wrong, change it in params.yaml and `cityloop deploy`. Then trigger this DAG again.",
        timeout=timedelta(hours=6),
    ),
    "features": Kind(
        "Puts validated records on the source's regular grid.",
        "The grid could not be made from data that passed validation: most likely disk or memory.", SERVES, AGAIN,
        timeout=timedelta(hours=6),
    ),
    "upstream": Kind(
        "Makes what all tasks share and is out of date, up to features; most often nothing is.",
        "A source's data could not be brought up to date. What succeeded is merged; the rest keeps what it had.",
        SERVES,
        f"The log names the stage and its reason; its `ingest_<source>` says more. {AGAIN}",
        timeout=timedelta(hours=12),
    ),
    "corpus": Kind(
        "Collects what the backbone may learn from: each source up to its cut.",
        "The backbone's history could not be put together.", SERVES, AGAIN, timeout=timedelta(hours=6),
    ),
    "pretrain": Kind(
        "Learns the backbone from its corpus, without labels; goes on from its checkpoint when it is tried again.",
        "Pretraining ended badly. Tasks keep the backbone they have.", SERVES,
        f"Out of memory: a smaller `batch`, or `accumulate`. Diverged: a lower `learning_rate`. {AGAIN}",
        pool=GPU, timeout=timedelta(days=3),
    ),
    "join": Kind(
        "Puts the task's target and inputs on one grid, without looking ahead.",
        "Target and inputs could not be joined: a source of the task has no data in its window, or other kinds.",
        SERVES, AGAIN, timeout=timedelta(hours=6),
    ),
    "finetune": Kind(
        "Adapts the backbone to the task and exports the bundle; goes on from its checkpoint when it is tried again.",
        "Training ended badly. The task keeps the model it has.", SERVES,
        f"Out of memory: a smaller `batch`. Diverged: a lower `learning_rate`. {AGAIN}",
        pool=GPU, timeout=timedelta(days=1),
    ),
    "evaluate": Kind(
        "Scores the bundle on the frozen test, beside last value, profile, ridge and trees.",
        "The new model could not be scored, so it cannot be registered.", SERVES, AGAIN, timeout=timedelta(hours=6),
    ),
    "card": Kind(
        "Writes the model card and the registration request.",
        "The card could not be written, so the model cannot be registered.", SERVES, AGAIN,
    ),
    "merge": Kind(
        "Brings what succeeded in this run to branch `live`, in one commit.",
        "Either a stage before it failed, and what succeeded is on `live` all the same; or the commit could not be "
        "pushed.",
        SERVES, f"Look at the first red task of the run. If that is this one: does the git remote answer? {AGAIN}",
    ),
    "register": Kind(
        "Makes the bundle a version in MLflow that names the merged commit; once for each digest.",
        "The model is trained and merged, and MLflow does not know of it.",
        "Yes; nobody can review the model meanwhile.", f"See that MLflow answers. {AGAIN}",
    ),
    "deploy": Kind(
        "Brings code and parameters to branch `live`, whose data and windows stay its own.",
        "`live` runs the code it had.", SERVES, AGAIN,
    ),
    "gate": Kind(
        "Judges the candidate beside champion and baselines. When it fails, the rest is skipped, with the reasons.",
        "The candidate could not be judged (that is not a verdict against it).", SERVES,
        f"See that MLflow and the store answer. {AGAIN}", timeout=timedelta(hours=6),
    ),
    "card_of": Kind(
        "Fetches the candidate's card, for the form.",
        "The card could not be fetched.", SERVES, f"See that MLflow answers. {AGAIN}",
    ),
    "form": Kind(
        "Waits for an answer under *Required Actions*: approve or reject this very version.",
        "The form could not be shown.", SERVES, AGAIN, retries=1,
    ),
    "record": Kind(
        "Writes the form's answer down as the tag `review.<name>` of the version.",
        "The answer was given and could not be recorded, or is about a version that has changed since.",
        "Not for long: somebody has decided and waits.", f"See that MLflow answers. {AGAIN}",
    ),
    "review": Kind(
        "Waits, without a worker, until reviewers have said yes or no to this very version in MLflow "
        "(tag `review.<name>` = `approved:<digest>` or `rejected:<digest>`), a newer one came, or its time is over.",
        "Nobody can be waited for: MLflow's address or account is wrong, or the version is gone.",
        "Not for long: what reviewers say now is not heard.",
        f"Check MLFLOW_TRACKING_URI and its account, in workers and triggerer. {AGAIN}",
    ),
    "promote": Kind(
        "Brings the approved version to serving: ledger, release, pointer. Where servers do not take it, it is undone.",
        "The version was not brought to serving, or was and is undone: what served before serves.",
        "Yes, unless the new version mends a fault.",
        "Read the reason in the log (`cityloop history <task>` has it too). Refused: the candidate is another one by "
        "now, which has its own run. Undone: look at the servers (`cityloop status`), then clear this task.",
        pool=PROMOTE, retries=1, timeout=timedelta(hours=6),
    ),
    "verify": Kind(
        "Asks whether every living server answers with the new version.",
        "A server answers with something else; the rollback after this task brings the former version back.",
        "**No.** See that the rollback is green.", "`cityloop status` names the server. Restart it, or take it away.",
        pool=PROMOTE, retries=2,
    ),
    "rollback": Kind(
        "Only when `verify` failed: serves again what served before.",
        "Servers disagree on what they answer, and the former version could not be brought back.",
        "**No.** Call whoever runs serving.",
        "`cityloop rollback <task>`, `cityloop promote --reconcile`, `cityloop status`.",
        pool=PROMOTE, retries=0,
    ),
    "serves": Kind(
        "Green when the new version serves.", "Something before it failed.", SERVES,
        "See the first red task of the run.",
    ),
    "predict": Kind(
        "Has the champion answer for all sensors, as a server would, into the prediction log: where "
        "`schedule.monitor.predict` names the task and a release serves.",
        "These answers are not there, so nothing will tell how good they were. Servers answer all the same.", SERVES,
        AGAIN, retries=2, timeout=timedelta(hours=1),
    ),
    "monitor": Kind(
        "Scores what was answered by what was read since, looks for drift, and decides: `fine`, `watch` or `retrain`, "
        "with reasons. What is judged by whole days changes once a day.",
        "The task is not watched, or not by all there is: nobody is told that its error rises. A red `predict` before "
        "it makes it red too, though it scored what was there.",
        "A day: the next run scores all that was missed.",
        f"If `predict` is red, mend that. See that the store answers. {AGAIN}", retries=2, timeout=timedelta(hours=2),
    ),
    "retrain": Kind(
        "Only when `monitor` decided so: writes into `retrain.yaml` on `live` from what, and on what, the task is "
        "trained anew, and wakes `train_<task>`. What it makes waits for a person's yes like any candidate.",
        "The model is to be trained anew, and is not: the one that has grown worse serves on.",
        "A day. It is not asked for again within `monitor.retrain.every`.",
        f"See that the git remote answers. {AGAIN} Or by hand: `cityloop retrain <task> --live`, then trigger "
        "`train_<task>`.",
    ),
    "parts": Kind(
        "Divides the time between the window's end and `until` into equal parts.",
        "`until` is not after the window's end; nothing was changed.", SERVES,
        "Trigger this DAG again with a later `until`.",
        retries=0,
    ),
    "part": Kind(
        "Has `ingest_<source>` fetch one part, and waits for it; parts come one after another.",
        "One part failed. Those before it are on `live`; the next one covers its time as well.", SERVES,
        "Open the run of `ingest_<source>` that this task links to; mend that; clear this task.",
        retries=0, timeout=timedelta(days=2),
    ),
}  # fmt: skip
