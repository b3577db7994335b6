"""The pieces of an encoder layer over rows that lie one behind the other, without padding: [tokens, hidden].

What is behind the last token is zero, or nobody's to read, and no gradient comes from it.

Linear layers, norms and activations need no more than that; only attention sees rows, in groups of the same padded
length. Frozen weights come in the dtype of the products, which trained factors and sums (LayerNorm, gradients of
parameters) are not in: they are float32.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

PAD_MULTIPLE = 8
"""Rows are padded to a multiple of this many sub-tokens, which matrix kernels like."""
TOKEN_MULTIPLE = 64
"""Zeros fill up the tokens of a batch to a multiple of this many.

On a CPU, oneDNN compiles and keeps kernels for every size of product that it meets, about half a megabyte and a
millisecond each, and a random batch has any number of tokens.
"""


@dataclass(frozen=True)
class Group:
    """Rows that attend together: their padded lengths are equal."""

    index: torch.Tensor | None
    """The token at each place, the row's own first one where there is padding: [rows * length]; None if 0, 1, 2, ..."""
    padding: torch.Tensor | None
    """Which of the last `PAD_MULTIPLE` places hold no token: [rows, PAD_MULTIPLE]; None if no place is padding."""
    rows: int
    length: int
    owners: torch.Tensor | None
    """Whose each row is, with `Apart`: [rows]."""


class Apart:
    """Trained parameters of which each owner of rows has a copy, so that its gradient stands apart.

    A copy is no more than a view: gradients alone take memory, [owners, ...] each.
    """

    def __init__(self, owners: torch.Tensor, count: int) -> None:
        """Whose each row of a batch is, [rows], from 0 to `count` - 1."""
        self.owners, self.count = owners, count
        self._copies: dict[torch.Tensor, torch.Tensor] = {}

    def copies(self, parameter: torch.Tensor) -> torch.Tensor:
        """Those of all owners: [owners, ...]."""
        if parameter not in self._copies:
            copies = parameter.detach().expand(self.count, *parameter.shape)
            self._copies[parameter] = copies.requires_grad_(parameter.requires_grad)
        return self._copies[parameter]

    def gradient(self, parameter: torch.Tensor) -> torch.Tensor | None:
        """Each owner's, [owners, ...]; None if no copy was read."""
        copies = self._copies.get(parameter)
        return None if copies is None else copies.grad


class Several:
    """Models over the same frozen weights, whose rows pass together; the low-rank products are each one's own.

    The factors of all stand beside each other as one of a larger rank, and what a token has along those of the others
    is set to zero: one product, however many models there are.
    """

    def __init__(self, layers: Mapping[nn.Module, Sequence[nn.Module]], tokens: torch.Tensor, count: int) -> None:
        """Of adapted layers of one rank.

        Args:
            layers: By each adapted layer of the first model, those of all models in its place.
            tokens: Whose each token is, from 0 to `count` - 1: [tokens].
            count: Of the models.
        """
        self.layers, self._tokens, self._count = layers, tokens, count
        self._masks: dict[tuple[int, int], torch.Tensor] = {}

    def own(self, low: torch.Tensor, parts: int) -> torch.Tensor:
        """Keep, in place, of [tokens, parts * count * rank] what each token has along its own model's factors."""
        size, columns = low.shape
        if low.shape not in self._masks:
            mask = low.new_zeros(size, self._count)
            mask[: len(self._tokens)].scatter_(1, self._tokens[:, None], 1.0)
            rank = columns // (parts * self._count)
            self._masks[size, columns] = mask.repeat_interleave(rank, 1).repeat(1, parts)
        return low.mul_(self._masks[size, columns])


@dataclass(frozen=True)
class Packing:
    """Where the sub-tokens of padded rows lie when they lie one behind the other."""

    tokens: torch.Tensor
    """Of each token, its place in the padded batch, flattened: [tokens]."""
    positions: torch.Tensor
    """Of each token, its place in its row: [tokens]."""
    groups: tuple[Group, ...]
    places: torch.Tensor | None
    """Of each token, its place in the groups, one behind the other: [tokens]; None if 0, 1, 2, ..."""
    apart: Apart | None = None
    several: Several | None = None

    def to(self, device: torch.device) -> "Packing":
        """The same on `device`."""
        groups = [
            replace(group, index=_moved(group.index, device), padding=_moved(group.padding, device))
            for group in self.groups
        ]
        tokens, positions = moved(self.tokens, device), moved(self.positions, device)
        return Packing(tokens, positions, tuple(groups), _moved(self.places, device), self.apart)

    def filled(self, tokens: torch.Tensor) -> torch.Tensor:
        """[tokens, ...] with zeros behind them, up to a multiple of `TOKEN_MULTIPLE`."""
        spare = -len(self.tokens) % TOKEN_MULTIPLE
        return functional.pad(tokens, (0, 0, 0, spare)) if spare else tokens


def moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on `device`; to a GPU it goes by pinned memory, so that nobody waits for it."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def _moved(tensor: torch.Tensor | None, device: torch.device) -> torch.Tensor | None:
    return None if tensor is None else moved(tensor, device)


def pack(mask: torch.Tensor, apart: Apart | None = None) -> Packing:
    """Lay out a batch, [rows, length], whose mask is one where there is text: at the start of every row."""
    lengths = mask.sum(1)
    starts = lengths.cumsum(0) - lengths
    tokens = mask.flatten().nonzero()[:, 0]
    positions = tokens % mask.shape[1]
    if bool((lengths == lengths[0]).all()):
        everything = Group(None, None, len(mask), int(lengths[0]), apart.owners if apart else None)
        return Packing(tokens, positions, (everything,), None, apart)
    padded = (lengths + PAD_MULTIPLE - 1) // PAD_MULTIPLE * PAD_MULTIPLE
    groups, places, before = [], torch.empty_like(tokens), 0
    for width in sorted(set(padded.tolist()) - {0}):
        own = padded == width
        steps = torch.arange(width, device=mask.device)
        there = steps < lengths[own, None]
        index = starts[own, None] + torch.where(there, steps, 0)
        places[index[there]] = before + there.flatten().nonzero()[:, 0]
        owners = apart.owners[own] if apart else None
        padding = None if bool(there.all()) else ~there[:, -PAD_MULTIPLE:]
        groups.append(Group(index.flatten(), padding, len(index), width, owners))
        before += index.numel()
    return Packing(tokens, positions, tuple(groups), places, apart)


@dataclass(frozen=True)
class Part:
    """The low-rank product beside some outputs of a frozen layer: scale B A on those from `start` to `end`."""

    start: int
    end: int
    scale: float


class Adapted(torch.autograd.Function):
    """x W^T + b, with scale x A^T B^T beside it for each part (LoRA; Hu et al. 2021, equation 3)."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        parts: Sequence[Part],
        packing: Packing,
        *ab: torch.Tensor,
    ) -> torch.Tensor:
        """[tokens, inputs] to [tokens, outputs].

        Args:
            ctx: Of torch.
            inputs: In the dtype of the products, as `weight` [outputs, inputs] and `bias` [outputs].
            weight: Frozen.
            bias: Frozen.
            parts: What has a product beside it.
            packing: Of the tokens.
            ab: A [rank, inputs] and B [outputs, rank] of each part in turn, float32; with `packing.apart` each owner's,
                [owners, ...], all alike.
        """
        outputs = torch.addmm(bias, inputs, weight.t())
        if packing.apart:
            ab = tuple(copies[0] for copies in ab)
        down, ranks = torch.cat(ab[0::2]).to(inputs.dtype) if ab else None, [len(a) for a in ab[0::2]]
        ups = [(b * part.scale).to(inputs.dtype) for b, part in zip(ab[1::2], parts, strict=True)]
        low = inputs @ down.t() if down is not None else None
        if low is not None:
            if packing.several:
                packing.several.own(low, len(parts))
            for part, x, up in zip(parts, torch.split(low, ranks, 1), ups, strict=True):
                outputs[:, part.start : part.end].addmm_(x, up.t())
        ctx.save_for_backward(inputs, weight, down, low, *ups)
        ctx.parts, ctx.ranks, ctx.packing = parts, ranks, packing
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        """The gradients of the inputs and of every A and B, as far as they are wanted."""
        inputs, weight, down, low, *ups = ctx.saved_tensors
        back = gradient @ weight if ctx.needs_input_grad[0] else None
        if down is None:
            return back, None, None, None, None
        own = [gradient[:, part.start : part.end] for part in ctx.parts]
        pulled = torch.cat([part @ up for part, up in zip(own, ups, strict=True)], 1)
        if ctx.packing.several:
            ctx.packing.several.own(pulled, len(own))
        if back is not None:
            back.addmm_(pulled, down)
        wanted = ctx.needs_input_grad[5:]
        downs = (
            torch.split(_outer(pulled, inputs, ctx.packing), ctx.ranks, -2) if any(wanted[0::2]) else [None] * len(own)
        )
        ab: list[torch.Tensor | None] = []
        for number, (part, x) in enumerate(zip(own, torch.split(low, ctx.ranks, 1), strict=True)):
            ab.append(downs[number] if wanted[2 * number] else None)
            scale = ctx.parts[number].scale
            ab.append(_outer(part, x, ctx.packing).mul_(scale) if wanted[2 * number + 1] else None)
        return back, None, None, None, None, *ab


def _outer(left: torch.Tensor, right: torch.Tensor, packing: Packing) -> torch.Tensor:
    """left^T right over all tokens, or with `packing.apart` over those of each owner: float32 [..., left, right].

    A row's product is its own, whatever other rows there are, to the last bit: rows are padded as their length says.
    """
    if packing.apart is None:
        return (left.t() @ right).float()
    total = left.new_zeros((packing.apart.count, left.shape[1], right.shape[1]), dtype=torch.float32)
    for group in packing.groups:
        narrow = left.shape[1] < right.shape[1]  # one side that is zero at padding is enough
        one, other = _gather(left, group, zeroed=narrow), _gather(right, group, zeroed=not narrow)
        assert group.owners is not None
        total.index_add_(0, group.owners, torch.bmm(one.transpose(1, 2), other).float())
    return total


class Attention(torch.autograd.Function):
    """Every row's attention over itself: softmax(Q K^T / sqrt(size)) V, head by head (Vaswani et al. 2017).

    Plain products: in bfloat16 on a CPU the backward pass of `scaled_dot_product_attention` takes far longer.
    """

    @staticmethod
    def forward(ctx: Any, qkv: torch.Tensor, packing: Packing, heads: int) -> torch.Tensor:
        """[tokens, 3 hidden] to [tokens, hidden]."""
        hidden = qkv.shape[1] // 3
        size = hidden // heads
        saved, outputs = [], []
        for group in packing.groups:
            rows, length = group.rows, group.length
            own = _gather(qkv, group, zeroed=False).view(rows, length, 3, heads, size).permute(2, 0, 3, 1, 4)
            q, k, v = own.reshape(3, rows * heads, length, size)
            scores = _scaled(q, k.transpose(1, 2), size**-0.5)
            if group.padding is not None:
                last = scores.view(rows, heads, length, length)[..., -PAD_MULTIPLE:]
                last.masked_fill_(group.padding[:, None, None], -torch.inf)
            weights = torch.softmax(scores, -1)
            outputs.append(torch.bmm(weights, v).view(rows, heads, length, size).transpose(1, 2).reshape(-1, hidden))
            saved += [q, k, v, weights]
        ctx.save_for_backward(*saved)
        ctx.packing, ctx.heads = packing, heads
        return _scatter(outputs, packing)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        """The gradient of queries, keys and values."""
        hidden, heads = gradient.shape[1], ctx.heads
        size, back = hidden // heads, []
        for number, group in enumerate(ctx.packing.groups):
            q, k, v, weights = ctx.saved_tensors[4 * number : 4 * number + 4]
            rows, length = group.rows, group.length
            own = _gather(gradient, group, zeroed=True).view(rows, length, heads, size).transpose(1, 2).reshape(q.shape)
            three = q.new_empty((3, *q.shape))
            torch.bmm(weights.transpose(1, 2), own, out=three[2])
            scores = torch._softmax_backward_data(torch.bmm(own, v.transpose(1, 2)), weights, -1, weights.dtype)
            torch.baddbmm(three[0], scores, k, beta=0, alpha=size**-0.5, out=three[0])
            torch.baddbmm(three[1], scores.transpose(1, 2), q, beta=0, alpha=size**-0.5, out=three[1])
            spread = three.view(3, rows, heads, length, size).permute(1, 3, 0, 2, 4)
            back.append(spread.reshape(rows * length, 3 * hidden))
        return _scatter(back, ctx.packing), None, None


class AddNorm(torch.autograd.Function):
    """LayerNorm of a sum, in float32, and the same in the dtype of the products if that is another."""

    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, added: torch.Tensor, norm: nn.LayerNorm
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`states` float32 and `added` in the dtype of the products, [tokens, hidden] both."""
        total = _sum(states, added)
        normal, mean, rstd = torch.native_layer_norm(total, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        ctx.save_for_backward(total, mean, rstd, norm.weight, norm.bias)
        ctx.dtype = added.dtype
        return normal, None if added.dtype == normal.dtype else normal.to(added.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor, low: torch.Tensor | None) -> Any:
        """The gradient of the sum, for both of its terms."""
        total, mean, rstd, weight, bias = ctx.saved_tensors
        if low is not None:
            gradient = _sum(gradient, low)
        back, _, _ = torch.ops.aten.native_layer_norm_backward(
            gradient, total, weight.shape, mean, rstd, weight, bias, [True, False, False]
        )
        return back, back.to(ctx.dtype), None


def adapted(
    inputs: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    parts: Sequence[Part],
    packing: Packing,
    ab: Sequence[torch.Tensor],
) -> torch.Tensor:
    """As `Adapted.forward`."""
    outputs: torch.Tensor = Adapted.apply(inputs, weight, bias, parts, packing, *ab)  # type: ignore[no-untyped-call]
    return outputs


def attend(qkv: torch.Tensor, packing: Packing, heads: int) -> torch.Tensor:
    """As `Attention.forward`."""
    outputs: torch.Tensor = Attention.apply(qkv, packing, heads)  # type: ignore[no-untyped-call]
    return outputs


def add_norm(states: torch.Tensor, added: torch.Tensor, norm: nn.LayerNorm) -> tuple[torch.Tensor, torch.Tensor]:
    """LayerNorm of `states`, float32, and `added`: in float32, and in the dtype of `added`; [tokens, hidden] all."""
    normal, low = AddNorm.apply(states, added, norm)  # type: ignore[no-untyped-call]
    return normal, normal if low is None else low


def _sum(exact: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Of a float32 tensor and one that may be narrower, which is widened first: torch adds mixed ones more slowly."""
    return exact + other if other.dtype == exact.dtype else other.to(exact.dtype).add_(exact)


def _scaled(one: torch.Tensor, other: torch.Tensor, scale: float) -> torch.Tensor:
    """Each batch's product, times `scale`."""
    return torch.baddbmm(one.new_empty(1), one, other, beta=0, alpha=scale)


def _gather(flat: torch.Tensor, group: Group, *, zeroed: bool) -> torch.Tensor:
    """A group's rows, [rows, length, ...]; at padding, if not `zeroed`, what the row's own first token has."""
    if group.index is None:
        return flat[: group.rows * group.length].view(group.rows, group.length, -1)
    rows = flat.index_select(0, group.index).view(group.rows, group.length, -1)
    if zeroed and group.padding is not None:
        rows[:, -PAD_MULTIPLE:].masked_fill_(group.padding[:, :, None], 0)
    return rows


def _scatter(groups: list[torch.Tensor], packing: Packing) -> torch.Tensor:
    """All groups' tokens, one behind the other, and zeros behind them."""
    return packing.filled(groups[0] if packing.places is None else torch.cat(groups).index_select(0, packing.places))
