"""Each DAG's page in Airflow: what it does, when, with what, and what to do when it is red. Made from params.yaml."""

from cityloop_airflow.city import Backbone, City, Source, Task

RED = """
## When it is red

Click the red task and read its *Docs* tab: what that failure means, whether it can wait, what to do. The last lines of
its *Logs* give the reason. Steps repeat safely: mend, then *Clear* the red task with *Downstream*, and the run goes on
where it was. What serves goes on serving.
"""
GREEN = "Nothing new: the run is green, and all after `plan` is skipped."


def ingest(source: Source, city: City) -> str:
    asked = [f"`train_{task.name}`" for task in city.tasks.values() if source.name in task.sources]
    return f"""# ingest_{source.name}

**{source.about or source.name}**, of the department *{source.department}*: fetched, held to its contract, gridded.

- **When:** once switched on, `{source.schedule}` (`schedule.ingest.{source.name}` in params.yaml; else by the source's
  step). By hand: *Trigger*, with `until` = where the window shall end: `now`, `+1d` from where it ends now, a date.
- **In:** the feed, as `sources.{source.name}` says. **Out:** `data/raw`, `data/validated`, `data/quarantine` and
  `data/features` of {source.name}, in one commit on branch `live`; the asset `cityloop://source/{source.name}`.
- **Then**, by the asset: {", ".join(asked) or "no task uses it yet"}.
- {GREEN} All or nothing is merged: a batch that breaks the contract leaves `live` as it was.
{RED}"""


def pretrain(backbone: Backbone, city: City) -> str:
    tasks = [f"`train_{task.name}`" for task in city.tasks.values() if task.backbone == backbone.name]
    return f"""# pretrain_{backbone.name}

The backbone **{backbone.name}** ({backbone.modality}) learns, without labels, from the history of all departments.

- **When:** once switched on, `{backbone.schedule}` (`schedule.pretrain.{backbone.name}` in params.yaml). It learns anew
  only if that history, its settings or its code changed. {GREEN}
- **In:** the features of {", ".join(city.sources)}. **Out:** `models/backbones/{backbone.name}`, in one commit on
  `live`; the asset `cityloop://backbone/{backbone.name}`. **Then**, by the asset: {", ".join(tasks) or "nothing yet"}.
- `pretrain` takes a slot of pool `gpu`. Stopped or killed, it goes on from its last checkpoint.
{RED}"""


def train(task: Task, city: City) -> str:
    sources = ", ".join(f"`cityloop://source/{name}`" for name in task.sources)
    return f"""# train_{task.name}

*{task.question}* A new model for **{task.name}**, of the department *{task.department}*, up to a version in MLflow.

- **When:** one of these is new: {sources}, `cityloop://backbone/{task.backbone}`,
  `cityloop://drift/{task.name}`, `cityloop://live/deployed`. An event that comes twice does no harm. {GREEN}
- **In:** features of {", ".join(task.sources)}; the backbone {task.backbone}. **Out:** `models/tasks/{task.name}`,
  metrics, plots and card, in one commit on `live`; a version in MLflow that names that commit; the asset
  `cityloop://candidate/{task.name}`.
- **Then**, by the asset: `promote_{task.name}`, for gate, a person's yes, and serving. Nothing serves by this DAG.
- A stage that fails stops what needs it. What succeeded is merged, what failed keeps what it had, and the run is red.
- `finetune` takes a slot of pool `gpu`. Stopped or killed, it goes on from its last checkpoint.
{RED}"""


def monitor(city: City) -> str:
    tasks = ", ".join(task.name for task in city.tasks.values() if task.watched)
    asked = ", ".join(task.name for task in city.tasks.values() if task.predicts)
    return f"""# monitor

Every task is watched: {tasks}. Live error, drift, and whether to train anew; a mapped task for each.

- **When:** once switched on, `{city.watch}` (`schedule.monitor.cron` in params.yaml). Live error is that of the hour;
  drift and decision are of whole days, and change in the first run after a day has ended (UTC).
- **predict:** champions that answer for all sensors first, every {city.every} since they did last, with no server asked
  (`schedule.monitor.predict`, `every`): {asked or "none"}.
- **In:** the prediction log, data at the head of `live`. **Out:** `monitor/<task>/` in the store, which `cityloop
  status`, the reports and the alerts read (`cityloop monitor <task>` says more); XCom `return_value` of `monitor` is
  the decision with its reasons.
- **Then**, where the decision is `retrain` (and `tasks.<task>.monitor.retrain.automatic` is not false): an entry in
  `retrain.yaml` on `live`, and the asset `cityloop://drift/<task>`, which starts `train_<task>`.
- Tasks that nothing answered yet are skipped. One that fails stops no other, and the run is red.
{RED}"""


MLFLOW = """On the version's page in MLflow (task `gate`, button *MLflow version*) read the card, and set the tag
`review.<your name>` to `approved:<digest>` or `rejected:<digest>`; `review_note` says why. The digest stands there."""
FORM = """Answer the form of task `form` (also under *Required Actions*): it shows the card, version and digest, and
your name is the one you are logged in with. Where more reviewers are asked for, the others say so in MLflow, by the tag
`review.<name>`."""


def promote(task: Task, city: City) -> str:
    return f"""# promote_{task.name}

The candidate for **{task.name}** is judged, reviewed by a person, and brought to serving; or not, with the reason.

- **When:** `train_{task.name}` registered a version (`cityloop://candidate/{task.name}`). *Trigger* does it for the
  present candidate.
- **Gate fails, rejected, superseded by a newer version, or unanswered after {task.review.expires}:** the rest is
  skipped, and the run is green; the reason stands in the log, and as XCom `reason`.
- **In:** the candidate in MLflow. **Out:** a record in the ledger, which names this run (`cityloop history
  {task.name}`), and the release in the store; servers answer with it within seconds.
- People are reminded every {task.review.remind} (`schedule.review` in params.yaml).

## To say yes or no

{FORM if task.review.door == "form" else MLFLOW}

An answer about another version than the one that waits counts for nothing.

## When it is red

`promote` red: what served before serves on. `verify` red: servers disagree, and `rollback` brings back what served
before. **If `rollback` is red too, call whoever runs serving.** Each task's *Docs* tab says more.
"""


def backfill() -> str:
    return f"""# backfill

Brings a source's data up to a date far ahead of its window's end, in parts, one after another: a part that fails costs
no more than itself, and each is merged as it is done.

- **By hand:** *Trigger*, with `source`, `until` (`now`, `+30d`, a date) and `parts`.
- Each part is a run of `ingest_<source>`, linked from its task. Training follows by itself, as after any ingest; what
  was asked for several times meanwhile finds nothing to do the second time.
{RED}"""


def deploy(city: City) -> str:
    return f"""# deploy

Brings new code and parameters to branch `live`, makes what all tasks share (features of {", ".join(city.sources)};
backbones {", ".join(city.backbones)}), and has every task look whether it must be trained anew.

- **By hand:** *Trigger*, with `source`: the branch or commit to deploy (`main`).
- **Out:** `live` with the new code, its dvc.lock and windows kept; the asset `cityloop://live/deployed`.
  **Then**, by the asset: all `train_*`.
- Airflow's own files (`dags/`) come by your DAG bundle, not by this.
{RED}"""
