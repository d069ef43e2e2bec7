"""Self-attention by the quickest way: on a CPU, training on short sequences, plain matrix products beat the kernel."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

SHORT = 128
"""Up to so long a sequence the scores are kept whole; see benchmarks/throughput.py."""


def attend(qkv: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
    """Mix [G, L, 3·D] (queries, keys and values, heads beside each other) to [G, L, D]; `bias` adds to the scores."""
    groups, length, _ = qkv.shape
    plain = bias is None and qkv.device.type == "cpu" and qkv.requires_grad
    if plain and not torch.compiler.is_compiling() and length <= SHORT:
        mixed: Tensor = _Short.apply(qkv, heads)  # type: ignore[no-untyped-call]
        return mixed
    # 4-D throughout: the ONNX exporter refuses attention in five dimensions.
    q, k, v = qkv.reshape(groups, length, 3 * heads, -1).transpose(1, 2).chunk(3, dim=1)
    if bias is None:
        mixed = F.scaled_dot_product_attention(q, k, v)
    else:  # the exporter cannot take the kernel apart that has one
        mixed = (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5 + bias).softmax(-1) @ v
    return mixed.transpose(1, 2).reshape(groups, length, -1)


class _Short(torch.autograd.Function):
    """The same with the scores kept: one copy in, one out, and batched products of all heads at once between."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, heads: int) -> Tensor:
        g, length, width = x.shape
        d = width // (3 * heads)
        qkv = x.view(g, length, 3, heads, d).permute(2, 3, 0, 1, 4).reshape(3, heads * g, length, d)
        q, k, v = qkv.unbind()
        score = torch.baddbmm(q.new_empty(1), q, k.transpose(1, 2), beta=0, alpha=d**-0.5).softmax(-1)
        ctx.save_for_backward(qkv, score)
        ctx.heads = heads
        return torch.bmm(score, v).view(heads, g, length, d).permute(1, 2, 0, 3).reshape(g, length, heads * d)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        qkv, score = ctx.saved_tensors
        heads = ctx.heads
        (q, k, v), none, alpha = qkv.unbind(), qkv.new_empty(1), qkv.shape[-1] ** -0.5
        g, length, _ = gradient.shape
        above = gradient.reshape(g, length, heads, -1).permute(2, 0, 1, 3).reshape(heads * g, length, -1)
        to_score = torch._softmax_backward_data(torch.bmm(above, v.transpose(1, 2)), score, -1, score.dtype)
        out = torch.empty_like(qkv)
        torch.baddbmm(none, to_score, k, beta=0, alpha=alpha, out=out[0])
        torch.baddbmm(none, to_score.transpose(1, 2), q, beta=0, alpha=alpha, out=out[1])
        torch.bmm(score.transpose(1, 2), above, out=out[2])
        return out.view(3, heads, g, length, -1).permute(2, 3, 0, 1, 4).reshape(g, length, -1), None
