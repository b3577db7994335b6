"""The pieces of an encoder layer over rows that lie one behind the other, without padding: [tokens, hidden].

Behind the last token stand zeros, at least one; what becomes of them is nobody's to read, and no gradient comes from
them.

Linear layers, norms and activations need no more than that; only attention sees rows, in groups of the same padded
length. Frozen weights come in the dtype of the products, which trained factors and sums (LayerNorm, gradients of
parameters) are not in: they are float32.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
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

    index: torch.Tensor
    """The token at each place, the zeros behind the last one where there is padding: [rows * length]."""
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
        self._ordered = torch.equal(owners, torch.arange(count, device=owners.device))
        self._copies: dict[torch.Tensor, torch.Tensor] = {}

    def copies(self, parameter: torch.Tensor) -> torch.Tensor:
        """Those of all owners: [owners, ...]."""
        if parameter not in self._copies:
            copies = parameter.detach().expand(self.count, *parameter.shape)
            self._copies[parameter] = copies.requires_grad_(parameter.requires_grad)
        return self._copies[parameter]

    def total(self, groups: Sequence["Group"], rows: Sequence[torch.Tensor]) -> torch.Tensor:
        """The sum over each owner's rows, [owners, ...], of what every group's rows have, [rows, ...], in float32."""
        if self._ordered and len(rows) == 1:
            return rows[0]
        total = rows[0].new_zeros((self.count, *rows[0].shape[1:]))
        for group, own in zip(groups, rows, strict=True):
            assert group.owners is not None
            total.index_add_(0, group.owners, own)
        return total

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
    apart: Apart | None = None
    several: Several | None = None
    _pieces: dict[tuple[int, int], "Pieces"] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Of the tokens with the zeros behind them."""
        return (len(self.tokens) // TOKEN_MULTIPLE + 1) * TOKEN_MULTIPLE

    def to(self, device: torch.device) -> "Packing":
        """The same on `device`."""
        groups = tuple(
            replace(group, index=moved(group.index, device), padding=_moved(group.padding, device))
            for group in self.groups
        )
        return Packing(moved(self.tokens, device), moved(self.positions, device), groups, self.apart)

    def filled(self, tokens: torch.Tensor) -> torch.Tensor:
        """[tokens, ...] with zeros behind them, up to a multiple of `TOKEN_MULTIPLE`."""
        return functional.pad(tokens, (0, 0, 0, self.size - len(tokens)))

    def pieces(self, kinds: int, heads: int) -> "Pieces":
        """Where the pieces of a token lie, if it has `kinds` for each head; every layer asks for the same."""
        key = kinds, heads
        if key not in self._pieces:
            self._pieces[key] = Pieces.of(self, *key)
        return self._pieces[key]


@dataclass(frozen=True)
class Pieces:
    """From tokens [size, kinds, heads, ...] to each group's products [kinds, rows, heads, length, ...], and back.

    One gathering each way; a piece is copied as a whole.
    """

    taken: tuple[torch.Tensor, ...]
    """Of each group's places, the piece that comes there: [kinds * rows * heads * length]."""
    back: torch.Tensor
    """Of each token's pieces, the place among those of all groups, one behind the other: [tokens * kinds * heads]."""

    @classmethod
    def of(cls, packing: Packing, kinds: int, heads: int) -> "Pieces":
        """Those of a batch."""
        device = packing.tokens.device
        kind, head = (
            torch.arange(kinds, device=device)[:, None, None, None],
            torch.arange(heads, device=device)[:, None],
        )
        taken = tuple(
            ((group.index.view(group.rows, 1, group.length) * kinds + kind) * heads + head).flatten()
            for group in packing.groups
        )
        everything = torch.cat(taken)
        back = everything.new_zeros(packing.size * kinds * heads)
        back[everything] = torch.arange(len(everything), device=device)
        return cls(taken, back[: len(packing.tokens) * kinds * heads])


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
    equal = bool((lengths == lengths[0]).all())
    padded = lengths if equal else (lengths + PAD_MULTIPLE - 1) // PAD_MULTIPLE * PAD_MULTIPLE
    groups = []
    for width in sorted(set(padded.tolist()) - {0}):
        own = padded == width
        steps = torch.arange(width, device=mask.device)
        there = steps < lengths[own, None]
        index = torch.where(there, starts[own, None] + steps, len(tokens))
        owners = apart.owners[own] if apart else None
        padding = None if bool(there.all()) else ~there[:, -PAD_MULTIPLE:]
        groups.append(Group(index.flatten(), padding, len(index), width, owners))
    return Packing(tokens, positions, tuple(groups), apart)


@dataclass(frozen=True)
class Part:
    """The low-rank product beside some outputs of a frozen layer: scale B A on those from `start` to `end`."""

    start: int
    end: int
    rank: int
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
        if not parts:
            ctx.save_for_backward(weight)
            return torch.addmm(bias, inputs, weight.t())
        if packing.apart:
            ab = tuple(copies[0] for copies in ab)
        # The bias is one more direction, so that the narrow product is where the outputs begin.
        down = torch.cat([*ab[0::2], ab[0].new_zeros(1, inputs.shape[1])]).to(inputs.dtype)
        up = weight.new_zeros(len(weight), len(down))
        for part, b, columns in zip(
            parts, ab[1::2], torch.split(up[:, :-1], [part.rank for part in parts], 1), strict=True
        ):
            columns[part.start : part.end] = b * part.scale
        up[:, -1] = bias
        low = inputs @ down.t()
        if packing.several:
            packing.several.own(low[:, :-1], len(parts))
        low[:, -1] = 1
        outputs = low @ up.t()
        outputs.addmm_(inputs, weight.t())
        ctx.save_for_backward(weight, inputs, down, up, low)
        ctx.parts, ctx.packing = parts, packing
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        """The gradients of the inputs and of every A and B, as far as they are wanted."""
        a: Sequence[torch.Tensor | None]
        b: Sequence[torch.Tensor | None]
        weight, *narrow = ctx.saved_tensors
        if not narrow:
            return gradient @ weight if ctx.needs_input_grad[0] else None, None, None, None, None
        inputs, down, up, low = narrow
        pulled, back = gradient @ up, None
        if ctx.packing.several:
            ctx.packing.several.own(pulled[:, :-1], len(ctx.parts))
        if ctx.needs_input_grad[0]:
            back = (pulled @ down).addmm_(gradient, weight)
        a = b = [None] * len(ctx.parts)
        if any(ctx.needs_input_grad[5::2]):
            ranks = [part.rank for part in ctx.parts]
            a = torch.split(_outer(pulled, inputs, ctx.packing)[..., :-1, :], ranks, -2)
        if any(ctx.needs_input_grad[6::2]):
            b = _ups(low, gradient, ctx.parts, ctx.packing)
        return back, None, None, None, None, *(factor for pair in zip(a, b, strict=True) for factor in pair)


def _ups(low: torch.Tensor, gradient: torch.Tensor, parts: Sequence[Part], packing: Packing) -> list[torch.Tensor]:
    """The gradient of every part's B."""
    columns = torch.split(low[:, :-1], [part.rank for part in parts], 1)
    if packing.apart:
        return [
            _outer(gradient[:, part.start : part.end], own, packing, part.scale)
            for part, own in zip(parts, columns, strict=True)
        ]
    # All in one product, the narrow side first, which is the faster order.
    rows = torch.split(_outer(low, gradient, packing)[:-1], [part.rank for part in parts])
    return [
        own[:, part.start : part.end].t().contiguous().mul_(part.scale) for part, own in zip(parts, rows, strict=True)
    ]


def _outer(left: torch.Tensor, right: torch.Tensor, packing: Packing, scale: float = 1.0) -> torch.Tensor:
    """`scale` left^T right over all tokens, or with `packing.apart` over each owner's: float32 [..., left, right].

    A row's product is its own, whatever other rows there are, to the last bit: rows are padded as their length says.
    """
    if packing.apart is None:
        return (left.t() @ right).float().mul_(scale)
    found = []
    for group in packing.groups:
        one, other = (flat.index_select(0, group.index).view(group.rows, group.length, -1) for flat in (left, right))
        found.append(_scaled(one.transpose(1, 2), other, scale).float())
    return packing.apart.total(packing.groups, found)


class Attention(torch.autograd.Function):
    """Every row's attention over itself: softmax(Q K^T / sqrt(size)) V, head by head (Vaswani et al. 2017).

    Plain products: in bfloat16 on a CPU the backward pass of `scaled_dot_product_attention` takes far longer.
    """

    @staticmethod
    def forward(ctx: Any, qkv: torch.Tensor, packing: Packing, heads: int) -> torch.Tensor:
        """[tokens, 3 hidden] to [tokens, hidden]."""
        hidden = qkv.shape[1] // 3
        size = hidden // heads
        three, one = packing.pieces(3, heads), packing.pieces(1, heads)
        flat, saved = qkv.view(-1, size), []
        mixed = qkv.new_empty(sum(map(len, one.taken)), size)
        for group, index, place in zip(packing.groups, three.taken, _split(mixed, one), strict=True):
            q, k, v = flat.index_select(0, index).view(3, -1, group.length, size)
            scores = _scaled(q, k.transpose(1, 2), size**-0.5).float()
            if group.padding is not None:
                last = scores.view(group.rows, heads, group.length, group.length)[..., -PAD_MULTIPLE:]
                last.masked_fill_(group.padding[:, None, None], -torch.inf)
            weights = torch.softmax(scores, -1).to(
                qkv.dtype
            )  # in float32 also faster: torch takes narrower rows singly
            torch.bmm(weights, v, out=place.view(v.shape))
            saved += [q, k, v, weights]
        ctx.save_for_backward(*saved)
        ctx.packing, ctx.heads = packing, heads
        return _together(mixed, one, (packing.size, hidden))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        """The gradient of queries, keys and values."""
        packing, hidden = ctx.packing, gradient.shape[1]
        size = hidden // ctx.heads
        three, one = packing.pieces(3, ctx.heads), packing.pieces(1, ctx.heads)
        back = gradient.new_empty(sum(map(len, three.taken)), size)
        for number, (index, place) in enumerate(zip(one.taken, _split(back, three), strict=True)):
            q, k, v, weights = ctx.saved_tensors[4 * number : 4 * number + 4]
            own = gradient.view(-1, size).index_select(0, index).view(q.shape)
            for_q, for_k, for_v = place.view(3, *q.shape)
            torch.bmm(weights.transpose(1, 2), own, out=for_v)
            scores = torch.bmm(own, v.transpose(1, 2)).float()
            scores = torch._softmax_backward_data(scores, weights.float(), -1, torch.float32).to(q.dtype)
            torch.baddbmm(for_q, scores, k, beta=0, alpha=size**-0.5, out=for_q)
            torch.baddbmm(for_k, scores.transpose(1, 2), q, beta=0, alpha=size**-0.5, out=for_k)
        return _together(back, three, (packing.size, 3 * hidden)), None, None


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


def _split(flat: torch.Tensor, pieces: Pieces) -> tuple[torch.Tensor, ...]:
    """Each group's part of the pieces of all."""
    return torch.split(flat, [len(index) for index in pieces.taken])


def _together(flat: torch.Tensor, pieces: Pieces, shape: tuple[int, int]) -> torch.Tensor:
    """The tokens of all groups' pieces, one behind the other, and zeros behind them."""
    tokens = flat.new_empty(shape)
    rows = tokens.view(-1, flat.shape[1])
    torch.index_select(flat, 0, pieces.back, out=rows[: len(pieces.back)])
    rows[len(pieces.back) :].zero_()
    return tokens
