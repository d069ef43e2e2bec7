"""Every bad params.yaml is one line that names file, key path and what to do, and exit code 2."""

import datetime as dt
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipelines.__main__ import main
from pipelines.core import params
from pipelines.core.errors import UserError

REPOSITORY = Path(__file__).parents[2]
GOOD = (REPOSITORY / "params.yaml").read_text()
HORIZON = "    horizon: 1h\n"


def edited(root: Path, old: str, new: str, text: str = GOOD) -> Path:
    assert old in text, f"params.yaml has no {old!r}"
    (root / "params.yaml").write_text(text.replace(old, new, 1))
    (root / "window.yaml").write_text((REPOSITORY / "window.yaml").read_text())
    return root


def line(root: Path) -> str:
    with pytest.raises(UserError) as caught:
        params.load(root)
    text = str(caught.value)
    assert "\n" not in text
    return text


# ruff: noqa: E501 (a row a fault)
BAD = [
    ("    horizon: 1h\n", "    horizn: 1h\n", "tasks.traffic_speed.horizn: unknown key; did you mean 'horizon'?"),
    ("finetune: {steps: ", "finetune: {stepz: ", "tasks.traffic_speed.finetune.stepz: unknown key; did you"),
    ("city:\n", "citty: {}\ncity:\n", "params.yaml: citty: unknown key; did you mean 'city'?"),
    ("{connector: simulator, feed: traffic}", "{connector: simulator, fed: traffic}", "sources.traffic.read.fed: unknown"),
    ("finetune: {steps: ", "finetune: {steps: many", "tasks.traffic_speed.finetune.steps: Input should be a valid integer"),
    ("finetune: {steps: ", "finetune: {steps: -", "tasks.traffic_speed.finetune.steps: Input should be greater than 0"),
    ("    step: 5min\n", "    step: 5 minutes\n", "sources.traffic.step: '5 minutes' is not a duration; write a whole"),
    ("    step: 5min\n", "    step: 7min\n", "sources.traffic: step must divide a day"),
    ("    step: 5min\n", "", "sources.traffic.step: missing; this key is required"),
    ('start: "2025-03-03"', "start: 2025-03-03", 'sources.traffic.start: write the date in quotes: "2025-03-03" (DVC'),
    (
        'start: "2025-03-03"',
        "start: 2025-03-03T06:00:00Z",
        'sources.traffic.start: write the date in quotes: "2025-03-03T06:00:00Z"',
    ),
    ("holidays: []", "holidays: [2025-12-25]", 'city.holidays.0: write the date in quotes: "2025-12-25"'),
    ('start: "2025-03-03"', 'start: "3 March"', "sources.traffic.start: '3 March' is not a date; write it as"),
    ('start: "2025-03-03"', 'start: "2025-03-30"', "sources.traffic: dates must run start < validation_from < test_from"),
    ("[0, 150]", "[150, 0]", "sources.traffic.kinds.speed: range [150.0, 0.0] must be [low, high]"),
    ("[0, 150]", "0-150", "sources.traffic.kinds.speed.range: Input should be a valid tuple (found '0-150')"),
    ("{connector: simulator, feed: traffic}", "{connector: simulatr}", "sources.traffic.read: "),
    ("stuck_after: 8h", "stuck_after: 8x", "sources.air.contract.stuck_after: '8x' is not a duration"),
    ("stuck_after: never", "stuck_after: nevr", "sources.water.kinds.leak.stuck_after: 'nevr' is not a duration"),
    ("  traffic:\n", "  Traffic:\n", "sources.Traffic: 'Traffic' is not a name; use small letters"),
    ("timezone: Europe/Amsterdam", "timezone: Europe/Amsterdm", "city.timezone: 'Europe/Amsterdm' is not a time zone"),
    ("{source: traffic, kinds: [speed]}", "{source: trafic}", "tasks.traffic_speed.target.source: no source 'trafic'; did you mean 'traffic'?"),
    ("kinds: [speed]", "kinds: [sped]", "tasks.traffic_speed.target.kinds: traffic has no 'sped'; did you mean 'speed'?"),
    ("backbone: series", "backbone: serie", "tasks.traffic_speed.backbone: no backbone 'serie'; did you mean 'series'?"),
    (HORIZON, "    horizon: 7min\n", "tasks.traffic_speed.horizon: not a multiple of the source's step"),
    ("label: leak", "label: pressure", "tasks.water_leak.label: 'pressure' is not a kind with `label: true` of water"),
    ("edges: [0.45, 0.75]", "edges: [0.75, 0.45]", "tasks.traffic_state.classes: edges must be increasing"),
    ("names: [jam, slow, free]", "names: [jam, slow, step]", "tasks.traffic_state.classes: 'step' names a column"),
    ("objective: classify", "objective: forecast", "tasks.traffic_state: `classes` belongs to objective classify"),
    ("corpus: {}", 'corpus: {until: {air: "2025-03-18"}}', "backbones.series.corpus.until.air: 2025-03-18 is past the source's test_from 2025-03-17"),
    ("corpus: {}", 'corpus: {until: {aire: "2025-03-01"}}', "backbones.series.corpus.until.aire: no source 'aire'; did you mean 'air'?"),
    ("  name: simulated\n", "  name: simulated\n  name: again\n", "params.yaml:7: not valid YAML: key 'name' is given twice"),
    ("  name: simulated\n", "  name: {{ city }}\n", "params.yaml:6: not valid YAML: a key must be plain text"),
    ("  name: simulated\n", "  name: [simulated\n", "not valid YAML"),
    ("{predict: all}", "{predict: [traffic]}", "schedule.monitor.predict: no 'traffic' in params.yaml"),
    ("{predict: all}", "{cron: often}", "schedule.monitor.cron: 'often' is no schedule"),
    ("kind: pm25, above", "kind: no2, above", "tasks.air_quality.alerts.limits.0: 'no2' is nothing that this task forecasts"),
    ("mean: 24h", "mean: 25h", "tasks.air_quality.alerts.limits.0.mean: not a multiple of the step up to the horizon"),
    ("sure: 0.5", "sure: 0.7", "tasks.air_quality.alerts.limits.0: sure: 0.7 is none of 0.1, 0.5, 0.9"),
    ("above: 25", "above: 25, below: 3", "tasks.air_quality.alerts.limits.0: give `above` or `below`"),
    ("city:\n", "window: {}\ncity:\n", "params.yaml: window: unknown key; window ends belong in window.yaml"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "says"), BAD, ids=[says for _, _, says in BAD])
def test_says_where_and_what(tmp_path: Path, old: str, new: str, says: str) -> None:
    text = line(edited(tmp_path, old, new))
    assert text.startswith(str(tmp_path / "params.yaml"))
    assert says in text


def test_a_label_is_no_input(tmp_path: Path) -> None:
    root = edited(tmp_path, "inputs: []", "inputs: [{source: water, kinds: [leak]}]")
    assert "tasks.traffic_speed.inputs.0.kinds: 'leak' is a label, known only afterwards" in line(root)


def test_faults_are_counted_once_each(tmp_path: Path) -> None:
    root = edited(tmp_path, "    step: 5min\n", "    step: 5m\n")
    edited(root, "stuck_after: 8h", "stuck_after: 8x", (root / "params.yaml").read_text())
    assert line(root).endswith("(and 1 more)")  # the second fails both branches of a union


def test_names_like_the_connectors_keep_their_place_in_the_path(tmp_path: Path) -> None:
    text = GOOD.replace("source: energy,", "source: files,").replace("  energy:\n", "  files:\n", 1)
    root = edited(
        tmp_path, "freshness: 6h}\n    privacy: {}\n\n  water", "fresh: 6h}\n    privacy: {}\n\n  water", text
    )
    assert "sources.files.contract.fresh: unknown key; did you mean 'freshness'?" in line(root)


def test_files_that_are_not_there_or_not_text(tmp_path: Path) -> None:
    assert (
        line(tmp_path)
        == f"{tmp_path}/params.yaml: no such file; run cityloop in the folder that has it, or name it with -C"
    )
    (tmp_path / "params.yaml").write_bytes(b"city: {name: caf\xe9}\n")
    assert "params.yaml: cannot be read as UTF-8 text" in line(tmp_path)
    (tmp_path / "params.yaml").write_text("- a\n")
    assert "expected a mapping of keys, found list" in line(tmp_path)
    (tmp_path / "params.yaml").unlink()
    (tmp_path / "params.yaml").mkdir()
    assert "params.yaml: cannot be read as UTF-8 text: Is a directory" in line(tmp_path)


@pytest.mark.parametrize(
    ("window", "says"),
    [
        ('trafic: "2025-04-07"', "window.yaml: trafic: no such source; did you mean 'traffic'?"),
        ("traffic: 2025-04-07", 'window.yaml: traffic: write the date in quotes: "2025-04-07"'),
        ('traffic: "soon"', "window.yaml: traffic: 'soon' is not a date"),
    ],
)
def test_the_window_file_is_named_for_its_own_faults(tmp_path: Path, window: str, says: str) -> None:
    edited(tmp_path, "city:", "city:")
    (tmp_path / "window.yaml").write_text(window)
    assert says in line(tmp_path)


def test_a_source_without_window_and_unknown_names(tmp_path: Path) -> None:
    edited(tmp_path, "city:", "city:")
    (tmp_path / "window.yaml").write_text('air: "2025-04-07"\n')
    city = params.load(tmp_path)
    with pytest.raises(UserError, match=r"window\.yaml: no window end for source 'traffic'; run `cityloop window"):
        city.window_end("traffic")
    with pytest.raises(UserError, match=r"no task 'energy_lod' in params\.yaml; did you mean 'energy_load'\?"):
        city.task("energy_lod")


def test_the_command_says_it_in_one_line_and_exits_with_2(tmp_path: Path) -> None:
    root = edited(tmp_path, HORIZON, "    horizn: 1h\n")
    command = [sys.executable, "-m", "pipelines", "-C", str(root), "features", "traffic"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert done.returncode == 2
    expected = "tasks.traffic_speed.horizn: unknown key; did you mean 'horizon'?"
    assert done.stderr == f"error: {root}/params.yaml: {expected}\n"
    assert done.stdout == ""
    assert sorted(p.name for p in root.iterdir()) == ["params.yaml", "window.yaml"]


@pytest.mark.parametrize("room", ["features", "corpus", "join"])
def test_an_unknown_key_of_a_room_exits_with_2(tmp_path: Path, room: str) -> None:
    root = edited(tmp_path, "city:", "city:")
    done = CliRunner().invoke(main, ["-C", str(root), room, "trafic_speed"])
    assert done.exit_code == 2
    assert done.stderr.startswith("error: no ")
    assert done.stderr.count("\n") == 1


def test_durations() -> None:
    assert [params.parse_duration(t) for t in ("90s", "5min", "1h", "2d", "1w")] == [
        dt.timedelta(seconds=s) for s in (90, 300, 3600, 172_800, 604_800)
    ]
    for bad in ("5", "min", "0h", "-1h", "1.5h", "1h30min", "1 hour", "", None, 5):
        with pytest.raises(ValueError, match="is not a duration"):
            params.parse_duration(bad)


def test_instants_are_utc() -> None:
    midnight = dt.datetime(2025, 3, 1, tzinfo=dt.UTC)
    for text in ("2025-03-01", "2025-03-01T00:00:00Z", "2025-03-01T01:00:00+01:00", "2025-02-28T19:00-05:00"):
        assert params.parse_instant(text) == midnight
        assert params.parse_instant(text).utcoffset() == dt.timedelta(0)
    for bad in ("2025-02-30", "01/03/2025", "", 20250301, None, dt.date(2025, 3, 1)):
        with pytest.raises(ValueError, match="date"):
            params.parse_instant(bad)


def test_parameters_are_frozen_and_the_shipped_city_is_whole() -> None:
    city = params.load(REPOSITORY)
    assert set(city.window) == set(city.sources)
    assert sorted(name for names in city.by_modality.values() for name in names) == sorted(city.sources)
    assert {m: city.by_modality[m] for m in ("image", "text")} == {
        "image": ["cameras", "crossings"], "text": ["messages"],
    }  # fmt: skip
    assert city.kinds(params.Select(source="water")) == ("pressure",)
    assert city.kinds(params.Select(source="water", kinds=("leak",))) == ("leak",)
    with pytest.raises(ValueError, match="frozen"):
        city.city.seed = 8  # type: ignore[misc]
