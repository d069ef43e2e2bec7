"""A bundle as MLflow loads it: pandas frames in and out. Knows MLflow's convention, not MLflow.

    mlflow.pyfunc.load_model("models:/traffic_speed@candidate").predict(frame)

Of a series, `frame` has a row a reading: time (UTC), sensor, kind, value. The answer has the same first three columns
and what the objective gives: quantiles and mean, class probabilities, or score and alarm.

Of pictures it has a column `image` (bytes of a file, or these in base64), of messages `text`. The answer has a row
each: `label` and a probability a name; or `found`, the boxes or spans as JSON.
"""

import base64
import binascii
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.core.errors import UserError
from pipelines.release import items
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


@dataclass(frozen=True)
class ItemRows:
    """Of pictures or messages."""

    predictor: items.Items

    def predict(self, frame: "pd.DataFrame", params: dict[str, Any] | None = None) -> "pd.DataFrame":
        import pandas as pd

        given = frame[self.predictor.modality].tolist()
        told = self.predictor.predict([_picture(g) for g in given] if self.predictor.modality == "image" else given)
        if self.predictor.objective == "classify":
            return pd.DataFrame([{"label": one["label"], **one["probabilities"]} for one in told])
        found = [json.dumps(next(v for v in one.values() if isinstance(v, list))) for one in told]
        return pd.DataFrame({"found": found})

    def example(self) -> "pd.DataFrame":
        """The golden picture or message, as `predict` takes it."""
        import pandas as pd

        return pd.DataFrame({self.predictor.modality: [self.predictor.example()]})


def of(predictor: Predictor | items.Items) -> Rows | ItemRows:
    return Rows(predictor) if isinstance(predictor, Predictor) else ItemRows(predictor)


def _picture(given: Any) -> bytes:
    if not isinstance(given, str):
        return bytes(given)
    try:
        return base64.b64decode(given, validate=True)
    except (binascii.Error, ValueError):
        raise UserError("image: a text that is not base64; give the bytes of the picture's file") from None


def _load_pyfunc(folder: str) -> Rows | ItemRows:
    """What MLflow calls (`loader_module`) with the bundle's folder: nothing is unpickled."""
    return of(items.load(Path(folder)))
