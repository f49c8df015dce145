"""Multi-head attention whose heads need not fill the width of the model."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from isogrid.errors import UnsupportedError, UsageError


class ShrunkAttention(nn.MultiheadAttention):
    """`torch.nn.MultiheadAttention` after heads or features were removed; parameters have the names of the original.

    In PyTorch's own the heads together are as wide as the model, so that a head can be removed neither from it nor with
    its help.  Here ``in_proj_weight`` is [3·heads·head_dim x embed_dim] and ``out_proj.weight`` [embed_dim x
    heads·head_dim].  Arguments and answers are those of the original.  The fused evaluation of
    `torch.nn.TransformerEncoderLayer` supposes the original shapes and is left out.

    Instances are made by `isogrid.shrink` only.
    """

    @classmethod
    def adopt(cls, module: nn.MultiheadAttention) -> None:
        """Turn a module whose parameters have been cut into one of this class, in place.

        Raises:
            UnsupportedError: less than one head is left.
        """
        packed = module.in_proj_weight
        width = packed.shape[0] // 3 if packed is not None else module.q_proj_weight.shape[0]
        if width < module.head_dim:
            raise UnsupportedError(f"Its one head is {module.head_dim} wide; heads are removed whole")
        module.__class__ = cls
        module.num_heads = width // module.head_dim
        module.embed_dim = module.out_proj.weight.shape[0]
        module.kdim = module.embed_dim if packed is not None else module.k_proj_weight.shape[1]
        module.vdim = module.embed_dim if packed is not None else module.v_proj_weight.shape[1]
        module._qkv_same_embed_dim = False  # what the fused evaluation asks for before it takes over

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """See `torch.nn.MultiheadAttention.forward`."""
        if is_causal and attn_mask is None:
            raise UsageError("ShrunkAttention got is_causal without attn_mask; accepted is the hint with its mask.")
        batched = query.dim() == 3
        if not batched:
            query, key, value = (part.unsqueeze(0) for part in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = (part.transpose(0, 1) for part in (query, key, value))
        q, k, v = self._project(query, key, value)
        batch, steps = q.shape[:2]
        mask = self._mask(key_padding_mask, attn_mask, batch, q.dtype)
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat([k, self.bias_k.expand(batch, -1, -1)], dim=1)
            v = torch.cat([v, self.bias_v.expand(batch, -1, -1)], dim=1)
        if self.add_zero_attn:
            k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (q, k, v))
        if mask is not None and k.shape[2] > mask.shape[-1]:
            mask = F.pad(mask, (0, k.shape[2] - mask.shape[-1]))
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = q @ k.transpose(-2, -1) / math.sqrt(self.head_dim)
            weights = F.dropout(torch.softmax(scores if mask is None else scores + mask, dim=-1), dropout)
            mixed = weights @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        answer = self.out_proj(mixed.transpose(1, 2).reshape(batch, steps, -1))
        if weights is not None and average_attn_weights:
            weights = weights.mean(dim=1)
        if not batched:
            return answer.squeeze(0), None if weights is None else weights.squeeze(0)
        return answer if self.batch_first else answer.transpose(0, 1), weights

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        packed = self.in_proj_weight
        matrices = (
            (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight) if packed is None else packed.chunk(3, dim=0)
        )
        biases = (None, None, None) if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        inputs = (query, key, value)
        return tuple(F.linear(x, matrix, bias) for x, matrix, bias in zip(inputs, matrices, biases, strict=True))

    def _mask(self, padding: Tensor | None, mask: Tensor | None, batch: int, dtype: torch.dtype) -> Tensor | None:
        """Both masks in one, to be added to the scores: broadcasts to [batch, heads, steps, keys]."""
        added = None if padding is None else _as_added(padding, dtype)[:, None, None, :]
        if mask is None:
            return added
        own = _as_added(mask, dtype)
        own = own.view(batch, self.num_heads, *own.shape[1:]) if own.dim() == 3 else own[None, None]
        return own if added is None else own + added


def _as_added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, float("-inf"))
