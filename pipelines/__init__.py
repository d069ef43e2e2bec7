"""cityloop: a city's models, from its sensors to what answers."""

import os

# Set before any of them is imported: no library tells its makers what a city runs. Who wants to may say otherwise.
for _name, _off in {
    "DVC_NO_ANALYTICS": "true",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "ORT_DISABLE_TELEMETRY": "1",
}.items():
    os.environ.setdefault(_name, _off)
