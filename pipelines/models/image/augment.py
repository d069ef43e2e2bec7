"""Pictures changed at random while training, by kornia (Riba et al., 2020), on the device that trains.

A batch brings its own seed: all is drawn for the whole batch, and a part takes what is its own, so that the number of
processes changes nothing. torchvision's transforms were tried first: its wheel asks for a CUDA build of torch.
"""

from typing import Any

import torch
from torch import Tensor


class Augment:
    """Kornia's operations in a row on [B, 3, S, S] of 0..1, and boxes along.

    >>> Augment("views", 96)(pixels, seed=7, part=0, parts=1, whole=64)
    """

    def __init__(self, kind: str, side: int) -> None:
        """kind: `views` for contrast, `crops` for reconstruction, `classify` or `locate` for tasks."""
        import kornia.augmentation as k

        def crop(least: float) -> Any:
            return k.RandomResizedCrop((side, side), scale=(least, 1.0), ratio=(0.8, 1.25), p=1.0)

        def colour(strength: float) -> list[Any]:
            span = (1 - strength, 1 + strength)
            return [k.RandomBrightness(span, p=0.8), k.RandomContrast(span, p=0.8), k.RandomSaturation(span, p=0.8)]

        flip = k.RandomHorizontalFlip(p=0.5)
        ways = {
            "views": [crop(0.3), flip, *colour(0.4), k.RandomGrayscale(p=0.2)],
            "crops": [crop(0.5), flip],
            "classify": [
                flip, k.RandomAffine(10, (0.08, 0.08), (0.8, 1.2), padding_mode="border", p=1.0), *colour(0.3),
                k.RandomErasing((0.02, 0.15), p=0.25),
            ],
            "locate": [flip, k.RandomAffine(0, (0.1, 0.1), (0.8, 1.25), p=1.0), *colour(0.3)],
        }  # fmt: skip
        self.boxes = kind == "locate"
        self._ways = k.AugmentationSequential(
            *ways[kind], data_keys=["input", "bbox_xyxy"] if self.boxes else ["input"]
        )

    @torch.no_grad()
    def __call__(
        self, pixels: Tensor, *, seed: int, part: int, parts: int, whole: int, boxes: Tensor | None = None
    ) -> Any:
        """Changed pixels; with `boxes` [B, M, 4] in pixels, these too. This is part `part` of `parts` of `whole`."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            drawn: Any = self._ways.forward_parameters(torch.Size((whole, *pixels.shape[1:])))
        for item in drawn:
            for name, value in item.data.items():
                if name == "forward_input_shape":
                    item.data[name] = torch.tensor(pixels.shape)
                elif isinstance(value, Tensor) and value.dim() and len(value) == whole:
                    item.data[name] = value[part::parts]
        with torch.autocast(pixels.device.type, enabled=False):
            if boxes is None:
                return self._ways(pixels, params=drawn)
            return self._ways(pixels, boxes, params=drawn)
