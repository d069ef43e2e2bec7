"""A bundle as MLflow loads it: pandas frames of long rows in and out. Knows MLflow's convention, not MLflow.

    mlflow.pyfunc.load_model("models:/traffic_speed@candidate").predict(frame)

`frame` has a row a reading: time (UTC), sensor, kind, value. The answer has the same first three columns
and what the objective gives: quantiles and mean, class probabilities, or score and alarm.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.release.predictor import Predictor

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Rows:
    """Times carry no zone on either side, as MLflow's schema wants; one that does is taken to UTC first."""

    predictor: Predictor

    def predict(self, frame: "pd.DataFrame", params: dict[str, Any] | None = None) -> "pd.DataFrame":
        import pandas as pd

        times = pd.to_datetime(frame["time"], utc=True).dt.tz_localize(None)
        rows = {
            "time": times.to_numpy("datetime64[us]"),
            "sensor": frame["sensor"].to_numpy(object),
            "kind": frame["kind"].to_numpy(object),
            "value": frame["value"].to_numpy(float, na_value=float("nan")),
        }
        return pd.DataFrame(self.predictor.predict_rows(rows))


def _load_pyfunc(folder: str) -> Rows:
    """What MLflow calls (`loader_module`) with the bundle's folder: nothing is unpickled."""
    return Rows(Predictor.load(Path(folder)))
