"""A release, fetched: verified, compared with its golden answers, run once; only then may it answer."""

import time
from pathlib import Path

from pipelines.core.errors import UserError
from pipelines.release import items
from pipelines.release.predictor import Predictor
from pipelines.serve.items import ItemModel
from pipelines.serve.model import Loaded, Model

GOLDEN = 1e-4
"""A release may differ so much from its golden answers, relative to them."""
SLOW_S = 0.02
"""From here on a picture or message is answered by all threads together."""


def load(task: str, folder: Path, version: str | None = None, threads: int = 1) -> Loaded:
    """Raises UserError for what must not serve. `threads`: how many may be at one request."""
    predictor = items.load(folder, threads=1, shared=True)
    off = predictor.golden()
    if not off <= GOLDEN:
        raise UserError(
            f"{folder}: its answers here differ by {off:.1e} from its golden ones, {GOLDEN:.0e} at most; "
            "make the bundle again with this machine's onnxruntime, or promote another"
        )
    if isinstance(predictor, Predictor):
        return Model.load(task, predictor, version)
    seconds = _takes(predictor)
    if threads > 1 and seconds > SLOW_S:
        predictor = items.load(folder, threads=threads, shared=True)
        assert not isinstance(predictor, Predictor)
        seconds = _takes(predictor)
    return ItemModel(task, predictor, version, seconds)


def _takes(predictor: items.Items) -> float:
    """Seconds of a second answer; the first allocates."""
    example = predictor.read(predictor.example())
    predictor.answers([example])
    began = time.perf_counter()
    predictor.answers([example])
    return time.perf_counter() - began
