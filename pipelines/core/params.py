"""The city as data: params.yaml and window.yaml, parsed once into frozen models.

An unknown key, a wrong type or an impossible combination is a `UserError` of one line that names
the file, the key path and the nearest valid key.
"""

import datetime as dt
import re
from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from pipelines.core.errors import UserError, nearest

PARAMS = "params.yaml"
WINDOW = "window.yaml"
_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400, "w": 604800}


@dataclass(frozen=True)
class Unquoted:
    """A date that stands in YAML without quotes; no key takes one."""

    text: str

    @property
    def advice(self) -> str:
        return f'write the date in quotes: "{self.text}" (DVC stops at an unquoted date)'

    def __str__(self) -> str:
        return self.text


def parse_duration(text: Any) -> dt.timedelta:
    """`5min`, `1h`, `2d` … as a timedelta. Raises ValueError for anything else."""
    if isinstance(text, dt.timedelta):
        return text
    match = re.fullmatch(r"(\d+)\s*(s|min|h|d|w)", str(text).strip())
    if not match or int(match[1]) == 0:
        raise ValueError(f"{text!r} is not a duration; write a whole number and s, min, h, d or w, such as 15min")
    return dt.timedelta(seconds=int(match[1]) * _UNITS[match[2]])


def parse_instant(text: Any) -> dt.datetime:
    """An ISO date or date-time as an aware UTC datetime; one without a zone is UTC. Raises ValueError."""
    if isinstance(text, dt.datetime) and text.tzinfo is not None:
        return text.astimezone(dt.UTC)
    if isinstance(text, Unquoted):
        raise ValueError(text.advice)
    if not isinstance(text, str):
        raise ValueError(f'{text!r} is not a date; write it in quotes, as "2025-03-01" or "2025-03-01T06:00:00Z"')
    try:
        value = dt.datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f'{text!r} is not a date; write it as "2025-03-01" or "2025-03-01T06:00:00Z"') from None
    return value.astimezone(dt.UTC) if value.tzinfo else value.replace(tzinfo=dt.UTC)


def _name(text: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", text):
        raise ValueError(f"{text!r} is not a name; use small letters, digits and _, beginning with a letter")
    return text


def _timezone(text: str) -> str:
    import zoneinfo

    try:
        zoneinfo.ZoneInfo(text)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError):
        raise ValueError(f"{text!r} is not a time zone; write an IANA name such as Europe/Paris") from None
    return text


Duration = Annotated[dt.timedelta, BeforeValidator(parse_duration)]
Instant = Annotated[dt.datetime, BeforeValidator(parse_instant)]
Name = Annotated[str, AfterValidator(_name)]
Zone = Annotated[str, AfterValidator(_timezone)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]


class Model(BaseModel):
    """Frozen; an unknown key is an error that suggests the nearest valid one."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for key in data:
                if key not in cls.model_fields:
                    hint = nearest(str(key), cls.model_fields)
                    raise PydanticCustomError("unknown_key", "unknown key; {hint}", {"key": str(key), "hint": hint})
        return data


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
    """One quantity a source measures. `label` marks what is known afterwards and is never a model input."""

    unit: str
    range: tuple[float, float]
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


class Privacy(Model):
    """Applied in ingest, before anything is written."""

    drop: tuple[str, ...] = ()
    """Sensor-table columns left out."""
    hash_sensors: bool = False
    """Sensor ids become a keyed hash (HMAC-SHA-256 under CITYLOOP_HASH_KEY)."""
    coarsen_location: float | None = Field(default=None, gt=0)
    """Latitude and longitude are rounded to this many degrees."""


class Faults(Model):
    """Expected share of records the simulator spoils, by fault. Zeroes give a clean city."""

    missing: Fraction = 0.01
    duplicate: Fraction = 0.003
    stuck: Fraction = 0.01
    spike: Fraction = 0.002
    out_of_range: Fraction = 0.001
    clock_skew: Fraction = 0.004
    unit_mixup: Fraction = 0.004


def _sha256(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise ValueError(f"{text!r} is not a SHA-256; write its 64 small hexadecimal digits")
    return text


class SimulatorRead(Model):
    """The embedded city; `feed` is which of its departments this source is."""

    connector: Literal["simulator"]
    feed: Literal["traffic", "air", "energy", "water"]
    sensors: Positive | None = None
    faults: Faults = Faults()


class TimeSplit(Model):
    """Time spread over several columns."""

    year: str
    month: str
    day: str
    hour: str | None = None
    minute: str | None = None


Sha256 = Annotated[str, AfterValidator(_sha256)]


def _check_path(path: str, sha256: str | None, key: str) -> None:
    pattern = any(mark in path for mark in "*?[")
    if "://" in path and sha256 is None:
        raise ValueError(f"{key}: a URL needs `sha256`, so that what is fetched is what was meant")
    if "://" in path and "*" in path:
        raise ValueError(f"{key}: a URL names one file; * is for local paths")
    if pattern and "://" not in path and sha256 is not None:
        raise ValueError(f"{key}: `sha256` is of one file, and {path!r} may name several; name the file")


class SensorTable(Model):
    """A CSV or Parquet file about the sensors. `latitude` and `longitude` may be absent unless named here."""

    path: str
    sha256: Sha256 | None = None
    sensor: str = "sensor"
    latitude: str | None = "latitude"
    longitude: str | None = "longitude"
    district: str | None = None


class GraphFile(Model):
    """A road graph. `matrix`: a CSV without header, .npy or .npz of weights, rows and columns in the order of the
    sensor table (or of a wide file's columns); 0 is no edge. `edges`: a CSV or Parquet file with an edge a row."""

    path: str
    sha256: Sha256 | None = None
    form: Literal["matrix", "edges"] = "matrix"
    source: str = "from"
    target: str = "to"
    weight: str | None = "weight"


class FilesRead(Model):
    """Files as cities have them. `{data}` in a path is the folder named by CITYLOOP_DATA."""

    connector: Literal["files"]
    path: str
    """A local path (relative to the city's folder), a glob, or any fsspec URL; a URL needs `sha256`."""
    sha256: Sha256 | None = None
    format: Literal["csv", "parquet", "npz", "hdf5"] | None = None
    """None: by the file's ending."""
    layout: Literal["wide", "long", "station"] = "long"
    """wide: a column a sensor (or as `columns` says); long: a row a record; station: a row a time, a column a kind."""
    time: str | TimeSplit | None = None
    """None for a wide file without time: then `first` and the source's `step` say when."""
    time_format: str | None = None
    """A strptime pattern, `unix` or `unix_ms`; None: ISO 8601."""
    timezone: Zone = "UTC"
    """The clock of times that carry no offset. An hour that comes twice in autumn is summer time first, then winter."""
    first: Instant | None = None
    sensor: str | None = None
    """long and station: the column with the sensor's id."""
    sensor_pattern: str | None = None
    """A regular expression on the file name whose first group is the sensor's id; None: the name without its ending."""
    station: str | None = None
    """The sensor's id, when the files are about one sensor only."""
    kind: str | None = None
    """long: the column with the kind. wide: the kind of all columns. None: the source's only kind."""
    value: str | None = None
    """long: the column with the value."""
    columns: dict[str, str] = {}
    """station: column → kind. wide: column → sensor/kind, or channel number → kind of an array [time, sensor, channel].
    long: the file's word for a kind → kind. Other columns are not read; other words stay as they are."""
    skip: tuple[str, ...] = ()
    """wide: columns that are not sensors."""
    na: tuple[str, ...] = ("", "NA", "NaN", "nan", "null", "None", "-")
    separator: str = ","
    decimal: str = "."
    encoding: str = "utf-8"
    dataset: str | None = None
    """The array in an .npz, or the key in an HDF5 file; None where there is only one."""
    sensors: SensorTable | None = None
    graph: GraphFile | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "FilesRead":
        _check_path(self.path, self.sha256, "path")
        for key, part in (("sensors", self.sensors), ("graph", self.graph)):
            if part is not None:
                _check_path(part.path, part.sha256, f"{key}.path")
        if self.layout == "long" and (self.time is None or self.value is None):
            raise ValueError("layout long needs `time` and `value`")
        if self.layout == "wide" and (self.sensor or self.sensor_pattern or self.station):
            raise ValueError("layout wide has its sensors in columns; leave out sensor, sensor_pattern and station")
        if sum(x is not None for x in (self.sensor, self.sensor_pattern, self.station)) > 1:
            raise ValueError("give one of sensor, sensor_pattern and station")
        if self.time_format and not isinstance(self.time, str):
            raise ValueError("time_format belongs to `time` in one column")
        if self.time is not None and self.first is not None:
            raise ValueError("`first` is for files without `time`; give one of them")
        if self.sensor_pattern is not None:
            try:
                groups = re.compile(self.sensor_pattern).groups
            except re.error as error:
                raise ValueError(f"sensor_pattern: not a regular expression: {error}") from None
            if groups < 1:
                raise ValueError("sensor_pattern: put the sensor's id in a group, such as station_(\\w+)\\.csv")
        if len(self.separator) != 1 or len(self.decimal) != 1 or self.separator == self.decimal:
            raise ValueError("separator and decimal are one character each, and differ")
        targets = list(self.columns.values())
        twice = next((t for t in targets if targets.count(t) > 1), None)
        if twice and self.layout != "long":
            raise ValueError(f"columns: {twice!r} is given to two columns")
        return self


class Source(Model):
    """One feed of one modality, and its data contract."""

    modality: Literal["series", "image", "text"] = "series"
    department: str
    about: str = ""
    start: Instant
    validation_from: Instant
    test_from: Instant
    step: Duration
    timezone: Zone | None = None
    """The clock that people live by where this source stands, for calendar features; None: the city's."""
    read: Annotated[SimulatorRead | FilesRead, Field(discriminator="connector")]
    kinds: dict[Name, Kind] = Field(min_length=1)
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
    def _columns(self) -> "Source":
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

    `family` cnn or lstm, for comparison: trained, adapted and served alike, but channels do not meet in them.
    """

    modality: Literal["series", "image", "text"] = "series"
    family: Literal["transformer", "cnn", "lstm"] = "transformer"
    size: Literal["tiny", "small", "base", "large"] = "tiny"
    corpus: Corpus = Corpus()
    pretrain: Pretrain = Pretrain()


class Select(Model):
    """Some kinds of a source; no kinds means all that are not labels."""

    source: Name
    kinds: tuple[Name, ...] = ()
    ahead: bool = False
    """Of an input whose values over the horizon are known, or forecast, when the question is asked, such as weather:
    the model is given those too. In training and evaluation what was measured stands in for the forecast, so that
    scores are those of a perfect one; the bundle's channels say so (role `ahead`)."""


class Classes(Model):
    """Classes as ranges of value ÷ the channel's reference (its 90th percentile on training data)."""

    names: tuple[str, ...]
    edges: tuple[float, ...]

    @model_validator(mode="after")
    def _shape(self) -> "Classes":
        if len(self.names) < 2:
            raise ValueError("names must have two classes or more")
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
    """Conditions before anyone may approve."""

    enabled: bool = True
    min_gain: float = 0.0


class Task(Model):
    """A department's question."""

    department: str
    question: str
    objective: Literal["forecast", "impute", "classify", "anomaly"]
    backbone: Name
    target: Select
    inputs: tuple[Select, ...] = ()
    context: Duration
    horizon: Duration
    classes: Classes | None = None
    label: Name | None = None
    """anomaly: the target source's label kind, used to choose the threshold and to score, never as an input."""
    finetune: Finetune = Finetune()
    evaluate: Evaluate = Evaluate()
    gate: Gate = Gate()

    @model_validator(mode="after")
    def _objective(self) -> "Task":
        if (self.objective == "classify") != (self.classes is not None):
            raise ValueError("`classes` belongs to objective classify, and it needs them")
        if self.target.ahead:
            raise ValueError("target.ahead: only inputs can be known ahead")
        if self.objective not in ("forecast", "classify") and any(chosen.ahead for chosen in self.inputs):
            raise ValueError(f"inputs: `ahead` belongs to forecast and classify; {self.objective} sees inputs already")
        if self.label and self.objective != "anomaly":
            raise ValueError("`label` belongs to objective anomaly")
        if self.finetune.head and self.objective != "anomaly":
            raise ValueError("`finetune.head` belongs to objective anomaly")
        return self


class Params(Model):
    """Everything in params.yaml, and the window's end of each source."""

    city: City
    sources: dict[Name, Source] = Field(min_length=1)
    backbones: dict[Name, Backbone] = {}
    tasks: dict[Name, Task] = {}
    window: dict[Name, Instant] = {}

    @model_validator(mode="after")
    def _references(self) -> "Params":
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
            if task.label and not (task.label in target.kinds and target.kinds[task.label].label):
                raise ValueError(f"{at}.label: {task.label!r} is not a kind with `label: true` of {task.target.source}")
            for key in ("context", "horizon"):
                if getattr(task, key) % target.step:
                    raise ValueError(f"{at}.{key}: not a multiple of the source's step")
            modality = self.backbones[task.backbone].modality
            if modality != target.modality:
                raise ValueError(f"{at}.backbone: {task.backbone!r} is for {modality}, the target is {target.modality}")
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


def load(root: Path = Path()) -> Params:
    """Read params.yaml and window.yaml of the city in `root`. Raises UserError, one line for the first fault."""
    data = read_yaml(root / PARAMS)
    if "window" in data:
        raise UserError(f"{root / PARAMS}: window: unknown key; window ends belong in {WINDOW}")
    window = read_yaml(root / WINDOW) if (root / WINDOW).exists() else {}
    try:
        params = Params.model_validate({**data, "window": window})
    except ValidationError as error:
        raise UserError(_one_line(error, {**data, "window": window}, root)) from None
    for name in window:
        if name not in params.sources:
            raise UserError(f"{root / WINDOW}: {name}: no such source; {nearest(name, params.sources)}")
    return params


def _one_line(error: ValidationError, data: dict[str, Any], root: Path) -> str:
    faults: dict[tuple[str, ...], ErrorDetails] = {}
    for details in error.errors():
        faults.setdefault(_key_path(details, data), details)  # the branches of a union fail at one key together
    (path, first), *rest = faults.items()
    file = root / (WINDOW if path[:1] == ("window",) else PARAMS)
    at = ".".join(path[1:] if path[:1] == ("window",) else path)
    more = f" (and {len(rest)} more)" if rest else ""
    return f"{file}: {at}{': ' if at else ''}{_message(first)}{more}"


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
