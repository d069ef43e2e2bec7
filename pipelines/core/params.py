"""The city as data: params.yaml, window.yaml and retrain.yaml, parsed once into frozen models.

An unknown key, a wrong type or an impossible combination is a `UserError` of one line that names
the file, the key path and the nearest valid key.
"""

import datetime as dt
from collections.abc import Hashable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from pipelines.core import files
from pipelines.core.errors import UserError, nearest
from pipelines.core.reads import Read, Sha256
from pipelines.core.retraining import RETRAIN as RETRAIN
from pipelines.core.retraining import Anew as Anew
from pipelines.core.retraining import completed
from pipelines.core.schedule import Schedule
from pipelines.core.values import Duration, Fraction, Instant, Model, Name, Positive, Unquoted, Zone
from pipelines.core.values import parse_duration as parse_duration
from pipelines.core.values import parse_instant as parse_instant
from pipelines.core.watching import Alerts, Monitor

PARAMS = "params.yaml"
WINDOW = "window.yaml"


class City(Model):
    """What is true of the whole city. `seed` is the simulator's; `holidays` are local dates."""

    name: Name
    timezone: Zone = "UTC"
    seed: int = 0
    holidays: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _holidays(self) -> "City":
        for day in self.holidays:
            parse_instant(day)
        return self


class Kind(Model):
    """One quantity a source measures; of pictures and messages, one way in which they are annotated.

    `label` marks what is known afterwards and is never a model input.
    """

    labels: tuple[str, ...] = ()
    """Of pictures and messages: what an annotation may say."""
    unit: str = ""
    range: tuple[float, float] = (0, 1)
    aggregate: Literal["mean", "sum", "max", "min", "last"] = "mean"
    label: bool = False
    stuck_after: Duration | Literal["never"] | None = None
    """A value unchanged for so long is a fault. None: the contract's; `never`: constant values are normal."""
    constant_ok: tuple[float, ...] = ()
    """Values that may hold for any time (a closed road's 0, no rain)."""
    constant_with: tuple[Name, ...] = ()
    """Kinds of the same sensor; while one of them rests at one of its `constant_ok`, this one may hold as well."""
    spikes: bool = True
    """Whether sudden single values are checked."""
    mixups: tuple[str, ...] = ()
    """Units that a sensor of this kind is sometimes wrongly set to; see `pipelines.core.units`."""

    @model_validator(mode="after")
    def _ordered(self) -> "Kind":
        if not self.range[0] < self.range[1]:
            raise ValueError(f"range {list(self.range)} must be [low, high] with low < high")
        if twice := next((word for word in self.labels if self.labels.count(word) > 1), None):
            raise ValueError(f"labels: {twice!r} stands there twice")
        return self


class Coverage(Model):
    """Least share of expected records, by sensor over the whole window and by day over all sensors."""

    sensor: Fraction = 0.5
    day: Fraction = 0.5


class Bounds(Model):
    """Where sensors may stand, in degrees."""

    south: float = -90
    west: float = -180
    north: float = 90
    east: float = 180


class Contract(Model):
    """What a department promises of its feed. Broken batches stop the run; broken records are quarantined."""

    freshness: Duration = dt.timedelta(days=1)
    """The newest record is at most this much older than the window's end."""
    max_gap: Duration = dt.timedelta(hours=6)
    """A longer gap in one channel is counted and reported."""
    max_quarantined: Fraction = 0.2
    """Share of records in quarantine over the whole window above which the batch is broken."""
    coverage: Coverage = Coverage()
    stuck_after: Duration = dt.timedelta(hours=6)
    spike_sigma: Annotated[float, Field(gt=0)] = 6.0
    clock_tolerance: Fraction = 0.1
    """How far from the grid a record's time may lie, as a share of the step; 1 switches the check off."""
    bounds: Bounds = Bounds()
    side: tuple[Positive, Positive] = (8, 12_000)
    """Pictures: the shorter and the longer side, in pixels, at least and at most."""
    pixels: Annotated[int, Field(gt=0, le=40_000_000)] = 40_000_000
    """Pictures: at most; more are never decoded."""
    aspect: Annotated[float, Field(ge=1)] = 10.0
    """Pictures: the longer side ÷ the shorter, at most."""
    blank: Annotated[float, Field(ge=0)] = 2.0
    """Pictures: one whose grey values (0 … 255) deviate by less than this shows nothing."""
    frozen: Positive = 5
    """Pictures: the same one of a camera so many times running is a camera that hangs."""
    near: Annotated[int, Field(ge=0, le=32)] = 6
    """Pictures whose 64-bit perceptual hashes differ in so few bits are near-duplicates, which no split parts."""
    length: tuple[Positive, Positive] = (2, 20_000)
    """Messages: code points, at least and at most."""
    languages: tuple[str, ...] = ()
    """Messages: ISO 639-1 codes that are expected; none: any."""
    balance: Fraction = 0.01
    """Pictures and messages: a class with a smaller share of the annotated ones is reported."""


class Features(Model):
    """How pictures and messages become what a model is given, and how they are split."""

    size: Annotated[int, Field(ge=16, le=1024)] = 96
    """Pictures: the side, in pixels, of the square they are fitted into."""
    split: Literal["time", "group"] = "time"
    """time: by the source's dates. group: whole groups of near-duplicates by lot, for collections without dates."""
    validation: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    """group: this share, and"""
    test: Annotated[float, Field(gt=0, lt=0.5)] = 0.2
    """this share, are held out."""
    seed: int = 0


class Privacy(Model):
    """Applied in ingest, before anything is written."""

    drop: tuple[str, ...] = ()
    """Sensor-table columns left out."""
    hash_sensors: bool = False
    """Sensor ids become a keyed hash (HMAC-SHA-256 under CITYLOOP_HASH_KEY)."""
    coarsen_location: float | None = Field(default=None, gt=0)
    """Latitude and longitude are rounded to this many degrees."""
    mask: bool = True
    """Telephone numbers, names, plates and the like in messages are masked, and what a camera wrote into a picture's
    file (place, owner) is left out."""


Modality = Literal["series", "image", "text"]
ANNOTATED = {"image": ("label", "boxes"), "text": ("label", "spans")}
"""What pictures and messages can be annotated with: the kinds of such a source."""


class Source(Model):
    """One feed of one modality, and its data contract."""

    modality: Modality = "series"
    department: str
    about: str = ""
    start: Instant
    validation_from: Instant
    test_from: Instant
    step: Duration
    timezone: Zone | None = None
    """The clock that people live by where this source stands, for calendar features; None: the city's."""
    read: Read
    kinds: dict[Name, Kind] = {}
    features: Features = Features()
    contract: Contract = Contract()
    privacy: Privacy = Privacy()

    @model_validator(mode="after")
    def _dates(self) -> "Source":
        if not self.start < self.validation_from < self.test_from:
            raise ValueError("dates must run start < validation_from < test_from")
        if dt.timedelta(days=1) % self.step:
            raise ValueError("step must divide a day")
        for name, kind in self.kinds.items():
            for other in kind.constant_with:
                if other not in self.kinds:
                    raise ValueError(f"kinds.{name}.constant_with: no kind {other!r}; {nearest(other, self.kinds)}")
        return self

    @model_validator(mode="after")
    def _kinds(self) -> "Source":
        if self.read.modality != self.modality:
            raise ValueError(f"this connector reads {self.read.modality}; `modality` says {self.modality}")
        if self.modality == "series" and not self.kinds:
            raise ValueError("kinds: name at least one")
        for name, kind in self.kinds.items():
            if self.modality == "series":
                if kind.labels or not {"unit", "range"} <= kind.model_fields_set:
                    raise ValueError(f"kinds.{name}: of a series needs `unit` and `range`, and has no `labels`")
            elif name not in ANNOTATED[self.modality]:
                possible = " or ".join(ANNOTATED[self.modality])
                raise ValueError(f"kinds.{name}: {self.modality} sources are annotated with {possible}")
            elif not kind.labels or kind.model_fields_set != {"labels"}:
                raise ValueError(f"kinds.{name}: has `labels`, one or more, and nothing else")
        return self

    @model_validator(mode="after")
    def _columns(self) -> "Source":
        if self.modality != "series":
            return self
        for column, target in getattr(self.read, "columns", {}).items():
            kind = target.rpartition("/")[2] if "/" in target or self.read.layout != "wide" else None  # type: ignore[union-attr]
            if kind is not None and kind not in self.kinds:
                raise ValueError(f"read.columns.{column}: no kind {kind!r} in this source; {nearest(kind, self.kinds)}")
        return self


class Corpus(Model):
    """What a backbone may learn from. `until` moves a source's cut earlier than its `test_from`, never later."""

    until: dict[Name, Instant] = {}


class Trainer(Model):
    """How long and on what to train. Everything else is derived."""

    steps: Positive = 300
    batch: Positive = 16
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    patience: Positive = 4
    clip: Annotated[float, Field(ge=0)] = 1.0
    """The gradient's norm at most; 0: as it is."""
    seed: int = 0
    accumulate: Positive = 1
    """A step's batch in so many parts, one after the other: less memory, the same training."""
    compile: bool = False
    accelerator: str = "auto"
    devices: Positive | Literal["auto"] = 1
    nodes: Positive = 1
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    precision: Literal["32-true", "bf16-mixed", "bf16-true"] = "32-true"


class Pretrain(Trainer):
    """`temperature`: a source is drawn in proportion to its size to this power; 1 as it is, 0 all alike."""

    temperature: Fraction = 0.5


class Backbone(Model):
    """A model pretrained without labels on every source of one modality.

    `family` of series: cnn or lstm are for comparison: trained, adapted and served alike, but channels do not meet in
    them. Of pictures: a vision transformer, or a cnn, which learns more from few. Of messages: a transformer.
    """

    modality: Modality = "series"
    family: Literal["transformer", "cnn", "lstm"] = "transformer"
    size: Literal["tiny", "small", "base", "large"] = "tiny"
    start: str | None = Field(default=None, alias="from")
    """image, text: a folder, relative to the city's, or a model of the Hugging Face hub, in safetensors, whose weights
    it begins with; then `size` is that model's own."""
    corpus: Corpus = Corpus()
    pretrain: Pretrain = Pretrain()

    @model_validator(mode="after")
    def _family(self) -> "Backbone":
        if self.family not in (possible := FAMILIES[self.modality]):
            raise ValueError(f"family {self.family!r} is not for {self.modality}; it has {', '.join(possible)}")
        if self.start and self.modality == "series":
            raise ValueError("`from` is for image and text; a series backbone begins with nothing")
        return self


FAMILIES = {"series": ("transformer", "cnn", "lstm"), "image": ("transformer", "cnn"), "text": ("transformer",)}
"""Of backbones, by modality."""


class Select(Model):
    """Some kinds of a source; no kinds means all that are not labels."""

    source: Name
    kinds: tuple[Name, ...] = ()
    ahead: bool = False
    """Of an input whose values over the horizon are known, or forecast, when the question is asked, such as weather:
    the model is given those too. In training and evaluation what was measured stands in for the forecast, so that
    scores are those of a perfect one; the bundle's channels say so (role `ahead`)."""


_COLUMNS = ("request_id", "task", "digest", "role", "issued", "sensor", "kind", "time", "step", "class", "date")
"""Of answers, beside one for each class."""


class Classes(Model):
    """Classes as ranges of value ÷ the channel's reference (its 90th percentile on training data)."""

    names: tuple[str, ...]
    edges: tuple[float, ...]

    @model_validator(mode="after")
    def _shape(self) -> "Classes":
        if len(self.names) < 2:
            raise ValueError("names must have two classes or more")
        if taken := sorted(set(self.names) & set(_COLUMNS)):
            raise ValueError(f"{taken[0]!r} names a column of every answer; call that class something else")
        if len(self.edges) != len(self.names) - 1 or list(self.edges) != sorted(set(self.edges)):
            raise ValueError("edges must be increasing and one fewer than names")
        return self


class Finetune(Trainer):
    """How a backbone, or the bundle named by `init`, is adapted to a task."""

    method: Literal["full", "head", "lora", "adalora"] = "full"
    """What is trained: all, the head alone, or the head and low-rank adapters of the backbone."""
    rank: Positive = 1
    """Of an adapter; adalora: the mean rank it ends with."""
    freeze: Annotated[int, Field(ge=0)] = 0
    """So many lowest blocks, and with the first the embeddings, stay as they are."""
    labels: Annotated[float, Field(gt=0)] = 1.0
    """How much of the training period answers are learnt from, its latest part: a share up to 1, or a count of
    windows."""
    scratch: bool = False
    """No pretrained weights, for comparison."""
    init: Sha256 | None = None
    """A bundle in the store, by its digest: go on from its weights, learning from what came after its training."""
    replay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each batch drawn from what `init` was trained on."""
    l2_to_start: Annotated[float, Field(ge=0)] = 0.0
    """Pull towards the weights that training starts from."""
    head: Literal["vae"] | None = None
    """anomaly: a variational autoencoder in place of the masked reconstruction."""
    int8: bool = False
    """What a picture is: matrix products in int8, if that costs little of what validation gets right. Worth it for
    vision transformers: a quarter of the size and 2.4 times as fast."""

    @model_validator(mode="after")
    def _start(self) -> "Finetune":
        if self.labels > 1 and self.labels % 1:
            raise ValueError(f"labels: {self.labels:g} is neither a share up to 1 nor a whole number of windows")
        if self.scratch and (self.init or self.l2_to_start):
            raise ValueError("scratch starts from nothing; leave out init and l2_to_start")
        if self.replay and not self.init:
            raise ValueError("replay is of what `init` was trained on; name that bundle's digest, or leave replay out")
        return self


class Evaluate(Model):
    """Scoring of the frozen test; `stride` is how far apart forecasts are issued (default: the horizon).

    bootstrap: draws of an interval; points: at most so many asked readings, forecasts are thinned evenly beyond.
    """

    stride: Duration | None = None
    bootstrap: Positive = 500
    points: Positive = 4_000_000


class Gate(Model):
    """Conditions that a candidate must meet before anyone may approve; shares are of the error, or of the score."""

    enabled: bool = True
    min_gain: Annotated[float, Field(ge=0)] = 0.0
    """Better than each baseline by at least this share, and by a 95 % interval that excludes no gain."""
    versus: tuple[
        Literal["last_value", "linear", "profile", "ridge", "majority", "logistic", "none", "usual", "dictionary"], ...
    ] = ()
    """The baselines meant; none named: all the objective has, boosted trees apart."""
    champion: Annotated[float, Field(ge=0)] = 0.0
    """At most by this share worse than the champion on the same test, as far as the interval can tell."""
    slice: Annotated[float, Field(ge=0)] = 0.15
    """No slice worse by more than this share than the champion there, or, without one, than the best baseline."""
    robustness: Annotated[float, Field(ge=0)] = 1.0
    """Under damaged readings worse by at most this share than without damage, or no worse than the ridge is."""
    coverage: tuple[Fraction, Fraction] = (0.7, 0.9)
    """Of the 80 % interval, over the whole test."""
    calibration: Fraction = 0.1
    """Expected calibration error of class probabilities, at most."""
    latency_ms: Annotated[float, Field(gt=0)] = 250
    """One window on one thread, 95th percentile."""
    size_mb: Annotated[float, Field(gt=0)] = 200
    reviewers: Positive = 1
    """Distinct people who must approve."""
    authenticated: bool = False
    """Count only approvals whose author is proven (a signed token, Airflow's form); a tag alone proves nobody. With two
    reviewers or more this is always so."""

    @model_validator(mode="after")
    def _ordered(self) -> "Gate":
        if not self.coverage[0] < self.coverage[1]:
            raise ValueError(f"coverage {list(self.coverage)} must be [low, high] with low < high")
        return self


class Release(Model):
    """How an approved model comes to answer."""

    mode: Literal["direct", "shadow", "canary"] = "direct"
    """direct: at once. shadow: first it answers a copy of the requests, unseen. canary: first a share of them."""
    share: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    """canary: of the requests."""
    seconds: Positive = 60
    """shadow, canary: watched for at most so long …"""
    requests: Positive = 200
    """… or until so many were answered and compared. Too little traffic for that is no reason to refuse."""
    max_error_rate: Fraction = 0.01
    max_latency_ratio: Annotated[float, Field(gt=0)] = 2.0
    """95th percentile, of the new model ÷ of the old one."""
    max_disagreement: Annotated[float, Field(gt=0)] = 1.0
    """Mean distance of the two answers in widths of the old one's 80 % interval; of classes and alarms the share that
    differs; of boxes one less the mean overlap with the best of the same label; of spans the share of marked code
    points that differ."""
    wait: Positive = 60
    """Seconds for every living server to report the new release; else the promotion is undone."""
    keep: Positive = 5
    """Releases of this task that stay in the store beside those that serve or served last."""


_NONE = dt.timedelta()


def _none(value: Any) -> Any:
    return _NONE if value is None else value


OBJECTIVES = {
    "series": ("forecast", "impute", "classify", "anomaly"),
    "image": ("classify", "locate"),
    "text": ("classify", "tag"),
}
"""Kinds of question, by modality."""
ASKED = {"classify": "label", "locate": "boxes", "tag": "spans"}
"""Of pictures and messages: the annotation that each objective learns from."""


class Task(Model):
    """A department's question."""

    modality: Modality = "series"
    department: str
    question: str
    objective: Literal["forecast", "impute", "classify", "anomaly", "tag", "locate"]
    """classify: states of a series, or what a picture or message is; tag: phrases of a message; locate: boxes in a
    picture."""
    backbone: Name
    target: Select
    inputs: tuple[Select, ...] = ()
    context: Annotated[Duration, BeforeValidator(_none)] = _NONE
    horizon: Annotated[Duration, BeforeValidator(_none)] = _NONE
    """Of a series; null for pictures and messages, as is the context."""
    classes: Classes | None = None
    label: Name | None = None
    """anomaly: the target source's label kind, used to choose the threshold and to score, never as an input."""
    finetune: Finetune = Finetune()
    evaluate: Evaluate = Evaluate()
    gate: Gate = Gate()
    release: Release = Release()
    monitor: Monitor = Monitor()
    alerts: Alerts = Alerts()

    @model_validator(mode="after")
    def _objective(self) -> "Task":
        if self.objective not in (possible := OBJECTIVES[self.modality]):
            raise ValueError(
                f"objective {self.objective!r} is not asked of {self.modality}; {' or '.join(possible)} is"
            )
        if self.modality == "series":
            if not (self.context and self.horizon):
                raise ValueError("context and horizon: a series needs both")
            if (self.objective == "classify") != (self.classes is not None):
                raise ValueError("`classes` belongs to objective classify, and it needs them")
        elif self.context or self.horizon or self.classes or self.inputs:
            raise ValueError(
                f"context, horizon, classes and inputs are for series; leave them null for {self.modality}"
            )
        if self.target.ahead:
            raise ValueError("target.ahead: only inputs can be known ahead")
        if self.objective not in ("forecast", "classify") and any(chosen.ahead for chosen in self.inputs):
            raise ValueError(f"inputs: `ahead` belongs to forecast and classify; {self.objective} sees inputs already")
        if self.label and self.objective != "anomaly":
            raise ValueError("`label` belongs to objective anomaly")
        if self.finetune.head and self.objective != "anomaly":
            raise ValueError("`finetune.head` belongs to objective anomaly")
        if self.finetune.int8 and (self.modality, self.objective) != ("image", "classify"):
            raise ValueError("`finetune.int8` is for pictures with objective classify")
        return self


class Params(Model):
    """Everything in params.yaml, the window's end of each source, and what retrain.yaml says of tasks."""

    city: City
    sources: dict[Name, Source] = Field(min_length=1)
    backbones: dict[Name, Backbone] = {}
    tasks: dict[Name, Task] = {}
    schedule: Schedule = Schedule()
    window: dict[Name, Instant] = {}
    retrain: dict[Name, Anew | None] = {}

    @model_validator(mode="after")
    def _references(self) -> "Params":
        asked = self.schedule
        known: dict[str, tuple[Iterable[str], Iterable[str]]] = {
            "ingest": (asked.ingest, self.sources),
            "pretrain": (asked.pretrain, self.backbones),
            "tasks": (asked.tasks, self.tasks),
            "monitor.predict": (asked.monitor.named, self.tasks),
        }
        for key, (given, names) in known.items():
            for name in given:
                if name not in names:
                    raise ValueError(f"schedule.{key}: no {name!r} in {PARAMS}; {nearest(name, names)}")
        for name, backbone in self.backbones.items():
            for source, until in backbone.corpus.until.items():
                at = f"backbones.{name}.corpus.until.{source}"
                cut = self._source(source, at).test_from
                if until > cut:
                    raise ValueError(f"{at}: {until:%Y-%m-%d} is past the source's test_from {cut:%Y-%m-%d}")
        for name, task in self.tasks.items():
            at = f"tasks.{name}"
            if task.backbone not in self.backbones:
                raise ValueError(
                    f"{at}.backbone: no backbone {task.backbone!r}; {nearest(task.backbone, self.backbones)}"
                )
            self._select(task.target, f"{at}.target")
            for i, chosen in enumerate(task.inputs):
                self._select(chosen, f"{at}.inputs.{i}")
                for kind in chosen.kinds:
                    if self.sources[chosen.source].kinds[kind].label:
                        raise ValueError(
                            f"{at}.inputs.{i}.kinds: {kind!r} is a label, known only afterwards; leave it out"
                        )
            target = self.sources[task.target.source]
            for i, limit in enumerate(task.alerts.limits):
                if task.objective != "forecast" or limit.kind not in self.kinds(task.target):
                    raise ValueError(f"{at}.alerts.limits.{i}: {limit.kind!r} is nothing that this task forecasts")
                if limit.mean and (limit.mean % target.step or limit.mean > task.horizon):
                    raise ValueError(f"{at}.alerts.limits.{i}.mean: not a multiple of the step up to the horizon")
            if task.label and not (task.label in target.kinds and target.kinds[task.label].label):
                raise ValueError(f"{at}.label: {task.label!r} is not a kind with `label: true` of {task.target.source}")
            for key in ("context", "horizon"):
                if getattr(task, key) % target.step:
                    raise ValueError(f"{at}.{key}: not a multiple of the source's step")
            for key, modality in (
                (f"backbone: {task.backbone!r}", self.backbones[task.backbone].modality),
                *((f"inputs: {chosen.source!r}", self.sources[chosen.source].modality) for chosen in task.inputs),
                ("modality", task.modality),
            ):
                if modality != target.modality:
                    raise ValueError(f"{at}.{key} is {modality}, the target is {target.modality}")
            if task.modality != "series":
                kind = ASKED[task.objective]
                if kind not in target.kinds or task.target.kinds not in ((), (kind,)):
                    raise ValueError(f"{at}.target: objective {task.objective} asks for kind {kind!r} of its source")
        return self

    def _source(self, name: str, at: str) -> Source:
        if name not in self.sources:
            raise ValueError(f"{at}: no source {name!r}; {nearest(name, self.sources)}")
        return self.sources[name]

    def _select(self, chosen: Select, at: str) -> None:
        source = self._source(chosen.source, f"{at}.source")
        for kind in chosen.kinds:
            if kind not in source.kinds:
                raise ValueError(f"{at}.kinds: {chosen.source} has no {kind!r}; {nearest(kind, source.kinds)}")

    def kinds(self, chosen: Select) -> tuple[str, ...]:
        """The kinds a selection means, labels left out unless named."""
        source = self.sources[chosen.source]
        return chosen.kinds or tuple(k for k, spec in source.kinds.items() if not spec.label)

    def source(self, name: str) -> Source:
        """The source of that name. Raises UserError with the nearest name, as do `backbone` and `task`."""
        return _find(self.sources, name, "source")

    def backbone(self, name: str) -> Backbone:
        return _find(self.backbones, name, "backbone")

    def task(self, name: str) -> Task:
        return _find(self.tasks, name, "task")

    def dates(self, task: str) -> tuple[dt.datetime, dt.datetime, dt.datetime]:
        """From when on `task` learns, is validated and is tested: its target source's dates, or retrain.yaml's."""
        source, anew = self.sources[self.task(task).target.source], self.retrain.get(task)
        if anew is None:
            return source.start, source.validation_from, source.test_from
        return anew.start or source.start, anew.validation_from, anew.test_from

    def trained(self, task: str) -> Task:
        """The task as it is to be trained: where retrain.yaml has an entry, from what that says.

        Of the time before the city changed nothing is replayed.
        """
        asked, anew = self.task(task), self.retrain.get(task)
        if anew is None:
            return asked
        init = None if asked.finetune.scratch else anew.init
        settings = {"init": init, "replay": asked.finetune.replay if init and anew.start is None else 0.0}
        return asked.model_copy(update={"finetune": asked.finetune.model_copy(update=settings)})

    def since(self, task: str) -> dt.datetime | None:
        """Before when nothing is learnt from because the city was another one; None: there is no such moment."""
        anew = self.retrain.get(task)
        return anew.start if anew else None

    def timezone(self, source: str) -> str:
        """The zone of a source's calendar features: its own, or the city's."""
        return self.source(source).timezone or self.city.timezone

    def window_end(self, source: str) -> dt.datetime:
        """Where `source`'s window ends. Raises UserError if window.yaml does not say."""
        if source not in self.window:
            raise UserError(f"{WINDOW}: no window end for source {source!r}; run `cityloop window --until DATE`")
        return self.window[source]

    @cached_property
    def by_modality(self) -> dict[str, list[str]]:
        """Source names by modality, in the order of params.yaml."""
        groups: dict[str, list[str]] = {}
        for name, source in self.sources.items():
            groups.setdefault(source.modality, []).append(name)
        return groups


def _find(group: dict[str, Any], name: str, what: str) -> Any:
    if name not in group:
        raise UserError(f"no {what} {name!r} in {PARAMS}; {nearest(name, group)}")
    return group[name]


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice, which YAML would silently let win, and keeps unquoted dates apart."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(None, None, "a key must be plain text", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _unquoted(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Unquoted:
    return Unquoted(str(loader.construct_scalar(node)))


_Loader.add_constructor("tag:yaml.org,2002:timestamp", _unquoted)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping. Raises UserError naming file and line when it is missing, malformed or not a mapping."""
    try:
        with path.open(encoding="utf-8") as file:
            data = yaml.load(file, _Loader)  # noqa: S506 (a SafeLoader subclass)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run cityloop in the folder that has it, or name it with -C") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text: {getattr(error, 'strerror', None) or error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise UserError(f"{path}{line}: not valid YAML: {problem}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected a mapping of keys, found {type(data).__name__}")
    return data


BESIDE = {"window": (WINDOW, "window ends"), "retrain": (RETRAIN, "retrainings")}
"""Fields of `Params` that have a file of their own, which may be missing."""


def load(root: Path = Path()) -> Params:
    """Read params.yaml, window.yaml and retrain.yaml of the city in `root`.

    Raises UserError, one line for the first fault.
    """
    data = read_yaml(root / PARAMS)
    for key, (file, what) in BESIDE.items():
        if key in data:
            raise UserError(f"{root / PARAMS}: {key}: unknown key; {what} belong in {file}")
    data |= {key: _or_none(root / file) for key, (file, _) in BESIDE.items()}
    try:
        params = Params.model_validate(data)
    except ValidationError as error:
        raise UserError(_one_line(error, data, root)) from None
    for name in params.window:
        if name not in params.sources:
            raise UserError(f"{root / WINDOW}: {name}: no such source; {nearest(name, params.sources)}")
    for name, anew in params.retrain.items():
        if anew is None:
            continue
        if name not in params.tasks:
            raise UserError(f"{root / RETRAIN}: {name}: no such task; `cityloop retrain` without a task drops it")
        source = params.tasks[name].target.source
        try:
            anew.inside(params.sources[source].start, params.window.get(source))
        except ValueError as error:
            raise UserError(f"{root / RETRAIN}: {name}.{error}") from None
    return params


def complete(root: Path = Path(), given: Path | None = None) -> bool:
    """Give retrain.yaml a key for every task in params.yaml and no other; whether that changed the file.

    Entries stay, those of the retrain.yaml in the folder `given` where there is one. Raises UserError when a file is no
    YAML.
    """
    found = _or_none((given or root) / RETRAIN)
    tasks = read_yaml(root / PARAMS).get("tasks") or {}
    return files.write_bytes(root / RETRAIN, completed(found, tasks).encode())


def _or_none(path: Path) -> dict[str, Any]:
    return read_yaml(path) if path.exists() else {}


def _one_line(error: ValidationError, data: dict[str, Any], root: Path) -> str:
    faults: dict[tuple[str, ...], ErrorDetails] = {}
    for details in error.errors():
        faults.setdefault(_key_path(details, data), details)  # the branches of a union fail at one key together
    (path, first), *rest = faults.items()
    file, at = PARAMS, path
    if path and path[0] in BESIDE:
        file, at = BESIDE[path[0]][0], path[1:]
    key = ".".join(at)
    more = f" (and {len(rest)} more)" if rest else ""
    return f"{root / file}: {key}{': ' if key else ''}{_message(first)}{more}"


def _key_path(details: ErrorDetails, data: Any) -> tuple[str, ...]:
    """The keys as they stand in the file, without pydantic's notes on unions and the like."""
    path: list[str] = []
    for part in details["loc"]:
        if part in (data if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ()):
            data = data[part]
        elif details["type"] != "missing" or part != details["loc"][-1]:
            continue
        path.append(str(part))
    return (*path, str(details["ctx"]["key"])) if details["type"] == "unknown_key" else tuple(path)


def _message(details: ErrorDetails) -> str:
    message = details["msg"].removeprefix("Value error, ")
    if isinstance(details["input"], Unquoted):
        return details["input"].advice
    if details["type"] == "missing":
        return "missing; this key is required"
    if details["type"] in ("value_error", "unknown_key", "union_tag_invalid", "union_tag_not_found"):
        return message
    found = " ".join(str(details["input"]).split())
    return f"{message} (found {found[:60]!r})"
