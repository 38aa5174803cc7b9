"""DCNv2 arranged for many candidates of few users: what depends on the user alone is computed once.

A row x0 has a user's side, the same for all of his candidates, and an item's side. Every cross layer
multiplies by x0, so both sides of x_l are those of x0 times a factor:

    x_l  =  x_0 * factor_l        factor_{l+1}  =  factor_l + W_l x_l + b_l        factor_0  =  1

The user's side of a factor is a sum of few columns of the candidate, each times a row of the user's own:

    user's side of factor_l  =  constant + sum over k of basis_k @ map_k

`basis_k` [B, C, r_k] belongs to the candidates, `constant` and `map_k` to the users. So nothing [B, C, U] is
ever made, and a candidate meets only those blocks of a layer's matrix that lead to the item's side. Nothing
is approximated: scores differ by rounding. It pays where a user has more than a few candidates, so graphs are
exported like this, while training, which draws few, multiplies whole rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from leanrec.models.forms.low_rank import LowRankLinear


class UserSide(NamedTuple):
    """The user's side of all rows of a batch, [B, C, width] where it were written out."""

    constant: Tensor
    """[B, 1, width], or [width] where it is the same for all users."""
    maps: dict[int, Tensor]
    """Number of a basis -> [B, r, width], or [r, width]."""

    def times(self, matrix: Tensor) -> UserSide:
        """Multiplied from the right by a matrix [width, n]."""
        return UserSide(self.constant @ matrix, {k: rows @ matrix for k, rows in self.maps.items()})

    def scaling(self, first: Tensor) -> UserSide:
        """As a factor of the user's side [B, 1, width] of the first row."""
        return UserSide(first * self.constant, {k: first * rows for k, rows in self.maps.items()})

    def plus(self, other: UserSide) -> UserSide:
        """The sum of both."""
        maps = dict(self.maps)
        for number, rows in other.maps.items():
            maps[number] = maps[number] + rows if number in maps else rows
        return UserSide(self.constant + other.constant, maps)

    def written_out(self, bases: list[Tensor]) -> Tensor:
        """[B, C, width], or [B, 1, width] where it is the same for all candidates."""
        out = self.constant
        for number, rows in self.maps.items():
            out = out + bases[number] @ rows
        return out


class Split(nn.Module):
    """A cross layer by its blocks, from and to each side."""

    def __init__(self, layer: nn.Linear, user_width: int) -> None:
        super().__init__()
        user, item = _sides(layer.weight.T, user_width)
        self.user_to_user, self.user_to_item = _sides(user.T, user_width, transposed=True)
        self.item_to_user, self.item_to_item = _sides(item.T, user_width, transposed=True)
        self.user_bias, self.item_bias = _sides(layer.bias, user_width)

    def forward(self, user: UserSide, item: Tensor, bases: list[Tensor]) -> tuple[UserSide, Tensor]:
        """What the layer makes of both sides; the item's side becomes one more basis."""
        from_user = user.times(self.user_to_item)
        to_item = item @ self.item_to_item + from_user.plus(UserSide(self.item_bias, {})).written_out(bases)
        to_user = user.times(self.user_to_user)
        bases.append(item)
        return to_user.plus(UserSide(self.user_bias, {len(bases) - 1: self.item_to_user})), to_item


class LowRankSplit(nn.Module):
    """The same of a low-rank layer, whose narrow middle is all that either side learns of a row."""

    def __init__(self, layer: LowRankLinear, user_width: int) -> None:
        super().__init__()
        self.user_in, self.item_in = _sides(layer.into.weight.T, user_width)
        self.user_out, self.item_out = _sides(layer.out.weight, user_width, transposed=True)
        self.user_bias, self.item_bias = _sides(layer.out.bias, user_width)

    def forward(self, user: UserSide, item: Tensor, bases: list[Tensor]) -> tuple[UserSide, Tensor]:
        """What the layer makes of both sides; its middle becomes one more basis."""
        middle = item @ self.item_in + user.times(self.user_in).written_out(bases)
        bases.append(middle)
        side = UserSide(self.user_bias, {len(bases) - 1: self.user_out})
        return side, middle @ self.item_out + self.item_bias


class Entrance(nn.Module):
    """The first layer of the deep network, which takes both sides in."""

    def __init__(self, layer: nn.Linear | LowRankLinear, user_width: int) -> None:
        super().__init__()
        into = layer.into if isinstance(layer, LowRankLinear) else layer
        self.user_in, self.item_in = _sides(into.weight.T, user_width)
        self.bias = into.bias
        self.out = layer.out if isinstance(layer, LowRankLinear) else nn.Identity()

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        """User's side [B, 1, U] and item's side [B, C, I]; answers [B * C, outputs].

        In rows: nothing behind this layer asks whose candidate a row is, and ONNX Runtime makes one operator
        of the product, bias and ReLU of rows.
        """
        from_user = user @ self.user_in
        if self.bias is not None:
            from_user = from_user + self.bias
        out: Tensor = self.out((item @ self.item_in + from_user).reshape(-1, self.item_in.shape[1]))
        return out


class DCNv2BySide(nn.Module):
    """The cross network, deep network and last layer of a DCNv2 ranker, over rows by side."""

    def __init__(
        self, cross: Iterable[nn.Module], deep: nn.Sequential, over: nn.Linear, user_width: int
    ) -> None:
        super().__init__()
        layers = [cast(nn.Linear | LowRankLinear, layer) for layer in (*cross, deep[0])]
        *crossing, first = layers
        self.cross = nn.ModuleList(
            LowRankSplit(layer, user_width) if isinstance(layer, LowRankLinear) else Split(layer, user_width)
            for layer in crossing
        )
        enters = cast(Split | LowRankSplit, self.cross[0])
        # The factors begin with 1, which may as well be in the first layer's bias.
        enters.user_bias = nn.Parameter(enters.user_bias + 1)
        enters.item_bias = nn.Parameter(enters.item_bias + 1)
        self.entrance = Entrance(first, user_width)
        self.deep = nn.Sequential(*list(deep)[1:])
        self.user_over, self.candidate_over = _sides(over.weight.T, user_width)
        self.bias = over.bias

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        """The user's side [B, U] and the item's side [B, C, I] of rows; answers logits [B, C, 3]."""
        first = user.unsqueeze(1)
        bases: list[Tensor] = []
        enters, *others = self.cross
        user_factor, item_factor = enters(UserSide(first, {}), item, bases)
        for layer in others:
            to_user, to_item = layer(user_factor.scaling(first), item * item_factor, bases)
            user_factor, item_factor = user_factor.plus(to_user), item_factor + to_item
        from_user = user_factor.scaling(first).times(self.user_over)
        deep = self.deep(self.entrance(first, item))
        deep = deep.reshape(-1, item.shape[1], deep.shape[1])
        # One product of everything that differs between candidates: three columns make a slow one.
        columns = torch.cat([item * item_factor, deep, *(bases[number] for number in from_user.maps)], dim=2)
        weights = [self.candidate_over.expand(user.shape[0], -1, -1), *from_user.maps.values()]
        answered: Tensor = columns @ torch.cat(weights, dim=1)
        return answered + (from_user.constant + self.bias)


def _sides(weight: Tensor, user_width: int, transposed: bool = False) -> list[nn.Parameter]:
    """The first `user_width` rows of `weight` and the others, as parameters of their own."""
    parts = weight.detach().split([user_width, len(weight) - user_width])
    return [nn.Parameter((part.T if transposed else part).contiguous()) for part in parts]
