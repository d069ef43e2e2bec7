"""Self-attention by the quickest way: on a CPU, training on short sequences, plain matrix products beat the kernel.

Queries, keys and values come as [B, N, S, 3·D], heads beside each other, and are mixed over N (axis 1) or S (axis 2).
They are laid out once, straight from what the projection gave, whichever axis it is.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

SHORT = 128
"""Up to so long a sequence the scores are kept whole; see benchmarks/throughput.py."""


def attend(qkv: Tensor, heads: int, axis: int, bias: Tensor | None = None) -> Tensor:
    """Mix [B, N, S, 3·D] over `axis`, 1 or 2, to [B, N, S, D]; `bias` [1, heads, length, length] adds to the scores."""
    plain = bias is None and qkv.device.type == "cpu" and qkv.requires_grad
    if plain and not torch.compiler.is_compiling() and qkv.shape[axis] <= SHORT:
        mixed: Tensor = _Short.apply(qkv, heads, axis)  # type: ignore[no-untyped-call]
        return mixed
    b, n, s, width = qkv.shape
    # 4-D throughout: the ONNX exporter refuses attention in five dimensions.
    if axis == 1:
        qkv = qkv.transpose(1, 2)
    q, k, v = qkv.reshape(-1, qkv.shape[2], 3 * heads, width // (3 * heads)).transpose(1, 2).chunk(3, dim=1)
    if bias is None:
        mixed = F.scaled_dot_product_attention(q, k, v)
    else:  # the exporter cannot take the kernel apart that has one
        mixed = (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5 + bias).softmax(-1) @ v
    mixed = mixed.transpose(1, 2)
    return mixed.reshape(b, s, n, -1).transpose(1, 2) if axis == 1 else mixed.reshape(b, n, s, -1)


class _Short(torch.autograd.Function):
    """The same with the scores kept: one copy in, one out, and batched products of all heads at once between."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, heads: int, axis: int) -> Tensor:
        ctx.heads, ctx.axis = heads, axis
        qkv = _by_head(x, 3, heads, axis)
        q, k, v = qkv.unbind()
        d = q.shape[-1]
        score = torch.baddbmm(q.new_empty(1), q, k.transpose(1, 2), beta=0, alpha=d**-0.5).softmax(-1)
        ctx.save_for_backward(qkv, score)
        return _beside(torch.bmm(score, v)[None], x.shape[:3], heads, axis)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        qkv, score = ctx.saved_tensors
        (q, k, v), none, alpha = qkv.unbind(), qkv.new_empty(1), qkv.shape[-1] ** -0.5
        above = _by_head(gradient, 1, ctx.heads, ctx.axis)[0]
        to_score = torch._softmax_backward_data(torch.bmm(above, v.transpose(1, 2)), score, -1, score.dtype)
        out = torch.empty_like(qkv)
        torch.baddbmm(none, to_score, k, beta=0, alpha=alpha, out=out[0])
        torch.baddbmm(none, to_score.transpose(1, 2), q, beta=0, alpha=alpha, out=out[1])
        torch.bmm(score.transpose(1, 2), above, out=out[2])
        return _beside(out, gradient.shape[:3], ctx.heads, ctx.axis), None, None


def _by_head(x: Tensor, parts: int, heads: int, axis: int) -> Tensor:
    """[B, N, S, parts · D] → [parts, groups, length, D / heads], a copy."""
    d = x.shape[3] // (parts * heads)
    split = _wide(x, d).view(*x.shape[:3], parts, heads, -1)
    order = (3, 4, 0, 2, 1, 5) if axis == 1 else (3, 4, 0, 1, 2, 5)
    return split.permute(order).contiguous().view(x.dtype).view(parts, -1, x.shape[axis], d)


def _beside(x: Tensor, shape: tuple[int, ...], heads: int, axis: int) -> Tensor:
    """[parts, groups, length, D / heads] → `shape` [B, N, S] and parts · D, a copy."""
    b, n, s = shape
    middle, order = ((s, n), (2, 4, 3, 0, 1, 5)) if axis == 1 else ((n, s), (2, 3, 4, 0, 1, 5))
    split = _wide(x, x.shape[3]).view(len(x), heads, b, *middle, -1)
    return split.permute(order).contiguous().view(x.dtype).view(b, n, s, -1)


def _wide(x: Tensor, together: int) -> Tensor:
    """Runs of `together` numbers, which stay together, as steps of sixteen bytes: copying takes half as long then."""
    x = x.contiguous()
    return x.view(torch.complex128) if together * x.element_size() % 16 == 0 else x
