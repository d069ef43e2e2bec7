"""What a training needs to go on where it was: one safetensors file in the city's state, whole or absent.

Tensors are written unsharded, so that another number of processes can go on with them, and nothing is pickled.
"""

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pipelines.core import files, log
from pipelines.core.params import Trainer
from pipelines.core.paths import Paths

KEPT = 2
"""The last one, and the one before should the disk have spoilt the last."""
WHERE = {"accelerator", "devices", "nodes", "strategy", "compile", "accumulate"}
"""Settings that say where and how a training runs, and not what comes of it."""
Batch = dict[str, Any]
Header = dict[str, Any]


def input_key(model: nn.Module, settings: Trainer, batches: list[Batch], data: Any = None) -> str:
    """SHA-256 over what determines a training: settings, untrained weights, code, and data.

    batches: the validation's and a training step's. They carry the scalers and profiles of the whole training split,
    so that other data change them; `data` (JSON) adds what they do not show.
    """
    digest = hashlib.sha256(files.to_json([settings.model_dump(mode="json", exclude=WHERE), data]))
    for path in _code():
        digest.update(path.read_bytes())
    weights = {k: v for k, v in model.state_dict().items() if isinstance(v, Tensor)}
    for values in (weights, *batches):
        for name in sorted(values):
            digest.update(name.encode())
            value = values[name]
            digest.update(_bytes(value) if isinstance(value, Tensor) else str(value).encode())
    return digest.hexdigest()


def _code() -> list[Path]:
    """The files of this package that are loaded."""
    package = __name__.partition(".")[0]
    loaded = (m for name, m in list(sys.modules.items()) if name.partition(".")[0] == package)
    return sorted({Path(m.__file__) for m in loaded if getattr(m, "__file__", None)})  # type: ignore[arg-type]


def _bytes(tensor: Tensor) -> Any:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _checksum(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(_bytes(tensors[name]))
    return digest.hexdigest()


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one training. `paths` None: none are kept."""

    paths: Paths | None
    what: str
    """Stage and key, such as "pretrain series"."""
    inputs: str

    @property
    def folder(self) -> Path | None:
        stage, _, key = self.what.partition(" ")
        return self.paths.state / "checkpoints" / stage / key / self.inputs[:16] if self.paths else None

    def _found(self) -> list[Path]:
        return sorted(self.folder.glob("*.safetensors"), reverse=True) if self.folder else []

    def save(self, tensors: dict[str, Tensor], header: Header) -> None:
        """Write the state after `header["step"]` steps. A full disk is told, and training goes on without."""
        if not self.folder:
            return
        text = json.dumps({**header, "inputs": self.inputs, "sha256": _checksum(tensors)})
        try:
            with files.replacing(self.folder / f"{header['step']:09d}.safetensors") as temporary:
                save_file({k: v.contiguous() for k, v in tensors.items()}, temporary, {"cityloop": text})
            for path in self._found()[KEPT:]:
                path.unlink(missing_ok=True)
        except (OSError, SafetensorError) as error:
            log.logger.warning("%s: no checkpoint at step %d: %s: %s", self.what, header["step"], self.folder, error)

    def load(self, weights: dict[str, torch.Size]) -> tuple[dict[str, Tensor], Header] | None:
        """The newest whole one whose trained `weights` have these names and shapes; others are passed over, told."""
        for path in self._found():
            try:
                return self._read(path, weights)
            except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
                told = " ".join(str(error).split())
                log.logger.warning("%s: %s: not a checkpoint of this training, ignored: %s", self.what, path, told)
        return None

    def _read(self, path: Path, weights: dict[str, torch.Size]) -> tuple[dict[str, Tensor], Header]:
        with safe_open(path, framework="pt") as file:
            header: Header = json.loads((file.metadata() or {})["cityloop"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        if header["inputs"] != self.inputs:
            raise ValueError("its inputs differ")
        if header["sha256"] != _checksum(tensors):
            raise ValueError("its bytes are damaged")
        if {k.removeprefix("model/"): v.shape for k, v in tensors.items() if k.startswith("model/")} != weights:
            raise ValueError("its weights have other names or shapes")
        return tensors, header

    def forget(self) -> None:
        """Remove them: the training's results are written."""
        if self.folder:
            rmtree(self.folder, ignore_errors=True)
