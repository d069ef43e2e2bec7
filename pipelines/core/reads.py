"""How each connector reads: the `read` block of a source in params.yaml."""

import re
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from pipelines.core.values import Duration, Fraction, Instant, Model, Positive, Zone


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


class ClosedRoad(Model):
    """feed traffic: no way through at `sensors` from `at` on. A trickle is left there; the others drive elsewhere."""

    kind: Literal["closed_road"]
    at: Instant
    sensors: tuple[str, ...] = Field(min_length=1)


class Broken(Model):
    """A cabinet's sensors fail together, from `at` until `until`, or for good. stuck: each channel repeats its last
    value; silent: nothing arrives; noise: four usual deviations of it on top; scaled: times 0.6."""

    kind: Literal["broken"]
    at: Instant
    until: Instant | None = None
    sensors: tuple[str, ...] = Field(min_length=1)
    fault: Literal["stuck", "silent", "noise", "scaled"]

    @model_validator(mode="after")
    def _ordered(self) -> "Broken":
        if self.until is not None and self.until <= self.at:
            raise ValueError("`until` is not after `at`")
        return self


Change = Annotated[ClosedRoad | Broken, Field(discriminator="kind")]


class SimulatorRead(Model):
    """The embedded city; `feed` is which of its departments this source is."""

    connector: Literal["simulator"]
    feed: Literal["traffic", "air", "energy", "water", "cameras", "messages"]
    sensors: Positive | None = None
    """So many sensors, or cameras; messages: so many a day."""
    faults: Faults = Faults()
    every: Duration | None = None
    """cameras: how far apart a camera's frames are; None: the source's step."""
    crops: bool = False
    """cameras: vehicles cut out of the frames, with their class, in place of whole frames."""
    labelled: Fraction = 0.5
    """cameras, messages: what share somebody has annotated."""
    spoiled: dict[str, Fraction] = {}
    """cameras, messages: expected share of items by fault, where it is not to be the simulator's own."""
    changes: tuple[Change, ...] = ()
    """Of series: what is different from some day on. Before it the city is the same with it and without."""

    @model_validator(mode="after")
    def _changeable(self) -> "SimulatorRead":
        for i, change in enumerate(self.changes):
            if self.modality != "series" or (change.kind == "closed_road" and self.feed != "traffic"):
                raise ValueError(f"changes.{i}: feed {self.feed} knows no {change.kind}")
        return self

    @property
    def modality(self) -> str:
        return {"cameras": "image", "messages": "text"}.get(self.feed, "series")


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

    modality: ClassVar[str] = "series"
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


class ImagesRead(Model):
    """Pictures as cities have them. `{data}` in a path is the folder named by CITYLOOP_DATA."""

    modality: ClassVar[str] = "image"
    connector: Literal["images"]
    path: str
    """A folder, a glob, or any fsspec URL of an archive (.zip, .tar, .tar.gz); a URL needs `sha256`."""
    sha256: Sha256 | None = None
    layout: Literal["folders", "coco", "yolo", "plain"] = "plain"
    """folders: a folder a class; coco: boxes in the JSON file `annotations`; yolo: a text file of boxes beside each
    picture (or in `labels/` beside `images/`); plain: nobody has annotated them."""
    annotations: str | None = None
    """coco: the JSON file, relative to the city's folder or `{data}`."""
    classes: tuple[str, ...] = ()
    """yolo: what its numbers mean, in order; empty: `data.yaml` or `classes.txt` beside the pictures says so."""
    words: dict[str, str] = {}
    """The files' word for a class → label; other words stay as they are."""
    pattern: str | None = None
    """A regular expression on the path with named groups `camera` and `time`, either or both."""
    sidecar: str | None = None
    """A CSV with columns file, camera, time and label, as many of them as there are."""
    time_format: str | None = None
    """A strptime pattern, `unix` or `unix_ms`; None: ISO 8601. What has no time has the source's `start`."""
    timezone: Zone = "UTC"
    camera: str = "camera"
    """The name of the camera where nothing says which."""

    @model_validator(mode="after")
    def _consistent(self) -> "ImagesRead":
        _check_path(self.path, self.sha256, "path")
        if (self.layout == "coco") != (self.annotations is not None):
            raise ValueError("`annotations` names the JSON file of layout coco, and that needs it")
        if self.pattern is not None:
            try:
                groups = set(re.compile(self.pattern).groupindex)
            except re.error as error:
                raise ValueError(f"pattern: not a regular expression: {error}") from None
            if not groups or groups - {"camera", "time"}:
                raise ValueError("pattern: name its groups camera and time, such as (?P<camera>\\w+)/(?P<time>\\d+)")
        return self


class MessagesRead(Model):
    """Free text in tables. `{data}` in a path is the folder named by CITYLOOP_DATA."""

    modality: ClassVar[str] = "text"
    connector: Literal["messages"]
    path: str
    """A local path, a glob, or any fsspec URL; a URL needs `sha256`. Endings .gz, .bz2, .xz and .zst are unpacked."""
    sha256: Sha256 | None = None
    format: Literal["csv", "parquet", "jsonl"] | None = None
    """None: by the file's ending."""
    text: str | tuple[str, ...] = "text"
    """The column, or columns that are joined by a line's end."""
    id: str | None = None
    time: str | None = None
    """The column; None: all have the source's `start`."""
    time_format: str | None = None
    timezone: Zone = "UTC"
    label: str | None = None
    spans: str | None = None
    """A column of JSON lists of {start, end, label}, in code points."""
    words: dict[str, str] = {}
    """The files' word for a label → label; other words stay as they are."""
    separator: str = ","
    encoding: str = "utf-8"

    @model_validator(mode="after")
    def _consistent(self) -> "MessagesRead":
        _check_path(self.path, self.sha256, "path")
        return self


Read = Annotated[SimulatorRead | FilesRead | ImagesRead | MessagesRead, Field(discriminator="connector")]
