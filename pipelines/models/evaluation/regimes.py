"""When the city lives otherwise: rush hours and nights, weekends and holidays, by its own clock and calendar."""

from typing import Any

import numpy as np

from pipelines.core import calendar
from pipelines.core.windows import Spec

Array = np.ndarray[Any, Any]


def local_hour(moments: Array, spec: Spec) -> Array:
    """Hour of the local clock of each moment (UTC) [T], 0 to 23."""
    found: Array = (calendar.local_seconds(moments, spec.timezone) // 3600) % 24
    return found


def of(moments: Array, spec: Spec) -> dict[str, Array]:
    """Which moments (UTC) [T] each regime holds; rush hour and night of data finer than three hours only."""
    hour = local_hour(moments, spec)
    off: Array = calendar.features(moments, spec.timezone, spec.holidays)[:, 6:8].max(1) > 0
    found = {}
    if spec.step_s <= 3 * 3600:
        found["rush_hour"] = ~off & (((hour >= 7) & (hour < 9)) | ((hour >= 16) & (hour < 19)))
        found["night"] = hour < 6
    return {**found, "weekend_holiday": off}
