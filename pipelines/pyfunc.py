"""What MLflow runs for a registered model: the bundle's Predictor over long rows. Logged as code, never pickled.

    mlflow.pyfunc.load_model("models:/traffic_speed@candidate").predict(frame)

`frame` has a row a measurement: time (UTC), sensor, kind, value. The answer has the same first three
columns and what the objective gives: quantiles and mean, class probabilities, or score and alarm.
"""

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd

from pipelines.release.predictor import Predictor


class BundleModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Needs ONNX Runtime and the release code that is stored beside it; no torch."""

    def load_context(self, context: Any) -> None:
        self.predictor = Predictor.load(Path(context.artifacts["bundle"]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        return answer(self.predictor, model_input)


def answer(predictor: Predictor, frame: pd.DataFrame) -> pd.DataFrame:
    """Long rows in, long rows out; times are UTC and carry no zone on either side, as MLflow's schema wants."""
    times = pd.to_datetime(frame["time"], utc=True).dt.tz_localize(None)
    rows = {
        "time": times.to_numpy("datetime64[us]"),
        "sensor": frame["sensor"].to_numpy(object),
        "kind": frame["kind"].to_numpy(object),
        "value": frame["value"].to_numpy(float, na_value=float("nan")),
    }
    return pd.DataFrame(predictor.predict_rows(rows))


mlflow.models.set_model(BundleModel())
