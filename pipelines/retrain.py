"""A decision → retrain.yaml: that a task is trained anew, from what and on what. DVC's stages follow the entry.

told = retrain.wanted("traffic_speed", retrain.Asked(), root=root)   # what monitor decided, as it would be written
retrain.write("traffic_speed", told, root=root)
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipelines.core import files, params
from pipelines.core.errors import Refused, UserError
from pipelines.core.params import Anew, Params
from pipelines.core.paths import Paths
from pipelines.core.retraining import RETRAIN, text
from pipelines.release.store import Store
from pipelines.watch.kept import Kept

DECISION = "decision.json"


@dataclass(frozen=True)
class Asked:
    """What a person says; what is None follows from the decision, or, with a date of `validation_from` or `test_from`,
    from the window and what params.yaml says of the task's retraining."""

    validation_from: str | None = None
    test_from: str | None = None
    start: str | None = None
    init: str | None = None
    backbone: bool = False

    @property
    def by_hand(self) -> bool:
        return bool(self.validation_from or self.test_from)


@dataclass(frozen=True)
class Told:
    """The entry, and why."""

    entry: Anew | None
    reasons: tuple[str, ...] = ()

    @property
    def words(self) -> list[str]:
        """As this command's own options say it."""
        if self.entry is None:
            return ["--clear"]
        given = {k.replace("_", "-"): v for k, v in self.entry.plain().items() if v is not None}
        return [w for k, v in given.items() for w in (f"--{k}", v)] + ([] if self.entry.init else ["--from-backbone"])


def wanted(task: str, asked: Asked, *, root: Path = Path()) -> Told:
    """What is to be written for `task`.

    Raises Refused when the latest decision is not to train, or about another champion than serves, UserError for dates
    that are none and for a bundle that the store has not.
    """
    city, paths = params.load(root), Paths(root)
    city.task(task)
    store = Store.of(paths)
    pointer = store.pointer(task)
    serves = pointer.stable if pointer else None
    if asked.init and asked.backbone:
        raise UserError("--init and --from-backbone: give one of them")
    reasons: tuple[str, ...]
    if asked.by_hand:
        entry, reasons = {**_dates(city, task, asked), "init": serves}, ("by hand",)
    else:
        entry, reasons = _decided(Kept(store.objects, task).read(DECISION), task, serves)
    if asked.start:
        entry["start"] = asked.start
    if asked.init or asked.backbone:
        entry["init"] = asked.init
    try:
        anew = Anew(**entry)
    except ValidationError as error:
        raise UserError(f"{task}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
    if anew.init and not store.holds(task, anew.init):
        raise UserError(f"{store.where}: no bundle {anew.init} of {task} to go on from; try --from-backbone")
    return Told(anew, reasons)


def _dates(city: Params, task: str, asked: Asked) -> dict[str, Any]:
    settings, end = city.task(task).monitor.retrain, city.window_end(city.task(task).target.source)
    try:
        test = params.parse_instant(asked.test_from) if asked.test_from else end - settings.test
        given = asked.validation_from
        return {
            "validation_from": params.parse_instant(given) if given else test - settings.validation,
            "test_from": test,
        }
    except ValueError as error:
        raise UserError(str(error)) from None


def _decided(decision: dict[str, Any] | None, task: str, serves: str | None) -> tuple[dict[str, Any], tuple[str, ...]]:
    if decision is None:
        raise Refused(f"{task}: nothing was decided yet; run `cityloop monitor {task}`, or give --test-from")
    if decision["decision"] != "retrain" or not decision["retrain"]:
        why = "; ".join(decision["reasons"]) or "no reason given"
        raise Refused(f"{task}: the decision of {decision['until']} is `{decision['decision']}`: {why}")
    if decision["champion"] != serves:
        raise Refused(
            f"{task}: the decision of {decision['until']} is about {str(decision['champion'])[:12]}, but "
            f"{str(serves)[:12]} serves now; run `cityloop monitor {task}` again"
        )
    return dict(decision["retrain"]), tuple(decision["reasons"])


def write(task: str, told: Told, *, root: Path = Path()) -> bool:
    """Put the entry into retrain.yaml, which gets a key for every task; whether that changed the file.

    Raises UserError for dates outside the window of the task's target source.
    """
    params.complete(root)
    city = params.load(root)
    source = city.task(task).target.source
    try:
        if told.entry:
            told.entry.inside(city.source(source).start, city.window.get(source))
    except ValueError as error:
        raise UserError(f"{task}: {error}") from None
    entries = {**dict.fromkeys(city.tasks), **city.retrain, task: told.entry}
    plain = {name: anew.plain() if anew else None for name, anew in entries.items()}
    return files.write_bytes(root / RETRAIN, text(plain).encode())


def listed(root: Path = Path()) -> dict[str, dict[str, str | None] | None]:
    """Every task's entry; retrain.yaml is completed first."""
    params.complete(root)
    return {name: anew.plain() if anew else None for name, anew in params.load(root).retrain.items()}


def sentence(task: str, told: Told, changed: bool) -> str:
    """What was done, for people."""
    if told.entry is None:
        return f"{task} goes by the dates of params.yaml" + (" again" if changed else " as it is")
    entry = told.entry.plain()
    source = f"bundle {entry['init'][:12]}" if entry["init"] else "the backbone"
    since = f" on what came since {entry['start']}" if entry["start"] else ""
    dates = f"validation from {entry['validation_from']}, test from {entry['test_from']}"
    return f"{task} {'is trained anew' if changed else 'was to be trained anew already'} from {source}{since}: {dates}"
