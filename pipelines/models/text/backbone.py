"""The encoder of messages: a small BERT of `transformers`, or whichever encoder a folder or the hub holds."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pipelines.core import files, params, tokens
from pipelines.core.errors import UserError
from pipelines.models.text import tokenizer
from pipelines.models.text.words import Words


class Size(NamedTuple):
    width: int
    blocks: int
    heads: int
    max_tokens: int
    vocabulary: int


SIZES = {
    "tiny": Size(128, 3, 4, 512, 4096),
    "small": Size(256, 4, 4, 512, 8192),
    "base": Size(768, 12, 12, 512, 32_000),
    "large": Size(1024, 24, 16, 512, 32_000),
}
MOST = 512
"""Tokens read at most, whatever an encoder from elsewhere could."""


class Backbone(nn.Module):
    """Hidden states of a message's tokens, and how often words stand in the corpus."""

    def __init__(self, encoder: Any, max_tokens: int) -> None:
        super().__init__()
        self.encoder, self.norm, self.max_tokens = encoder, nn.Identity(), max_tokens
        self.words = Words(encoder.config.vocab_size)
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = None

    @property
    def blocks(self) -> nn.ModuleList:
        count = self.encoder.config.num_hidden_layers
        lists = (m for m in self.encoder.modules() if isinstance(m, nn.ModuleList) and len(m) == count)
        return next(lists, nn.ModuleList())

    @property
    def width(self) -> int:
        return int(self.encoder.config.hidden_size)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """[B, L] twice → [B, L, width]."""
        hidden: Tensor = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        return hidden

    def embedded(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """As `forward`, of tokens' vectors [B, L, width] in place of their numbers."""
        hidden: Tensor = self.encoder(inputs_embeds=vectors, attention_mask=mask).last_hidden_state
        return hidden

    def config(self, settings: params.Backbone) -> dict[str, Any]:
        """What it takes to build it again."""
        own = self.encoder.config.to_diff_dict()
        for told in ("transformers_version", "_name_or_path", "architectures", "dtype", "torch_dtype"):
            own.pop(told, None)
        return {
            "modality": "text",
            "size": settings.size,
            "family": settings.family,
            "max_tokens": self.max_tokens,
            "encoder": {**own, "model_type": self.encoder.config.model_type},
        }


def build(config: dict[str, Any]) -> Backbone:
    """Untrained, from its config."""
    from transformers import AutoConfig, AutoModel

    own = dict(config["encoder"])
    made: Any = AutoModel
    return Backbone(made.from_config(AutoConfig.for_model(own.pop("model_type"), **own)), config["max_tokens"])


def begin(key: str, settings: params.Backbone, texts: list[str], root: Path) -> tuple[Any, int, bytes]:
    """What pretraining begins with: a masked-language model, the tokens it reads at most, its tokenizer.json.

    Raises UserError when `from` names nothing that can be read, or weights that are no safetensors.
    """
    from transformers import AutoModelForMaskedLM, BertConfig

    if settings.start:
        return _from(key, settings.start, root)
    size = SIZES[settings.size]
    made = tokenizer.train(texts, size.vocabulary)
    config = BertConfig(
        vocab_size=tokens.load(made).get_vocab_size(), hidden_size=size.width, num_hidden_layers=size.blocks,
        num_attention_heads=size.heads, intermediate_size=4 * size.width, max_position_embeddings=size.max_tokens,
        pad_token_id=tokenizer.PAD, type_vocab_size=1,
    )  # fmt: skip
    torch.manual_seed(settings.pretrain.seed)
    model: Any = AutoModelForMaskedLM
    return model.from_config(config), size.max_tokens, made


def _from(key: str, start: str, root: Path) -> tuple[Any, int, bytes]:
    from safetensors import SafetensorError
    from transformers import AutoModelForMaskedLM
    from transformers.utils.hub import cached_file

    at = f"backbones.{key}.from: {start}"
    where = str(root / start) if (root / start).is_dir() else start
    try:
        made = Path(str(cached_file(where, "tokenizer.json"))).read_bytes()
        # Never pickle: weights of unknown origin could run anything.
        model = AutoModelForMaskedLM.from_pretrained(where, use_safetensors=True, dtype=torch.float32)
        tokens.load(made)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"{at}: {' '.join(str(error).split())[:300]}; give a folder, or a model of the hub, that has config.json, "
            "model.safetensors and tokenizer.json"
        ) from None
    reach = int(getattr(model.config, "max_position_embeddings", MOST))
    # RoBERTa counts positions from its padding on.
    reach -= (model.config.pad_token_id or 0) + 1 if model.config.model_type in ("roberta", "xlm-roberta") else 0
    return model, min(reach, MOST), made


def load(folder: Path) -> Backbone:
    """A pretrained backbone: config.json and weights.safetensors."""
    from safetensors.torch import load_file

    model = build(files.read_json(folder / "config.json"))
    model.load_state_dict(load_file(folder / "weights.safetensors"))
    return model
