"""The expander: representation `s` to embedding `v`, on which the regularisers act.

VICReg (Bardes, Ponce, LeCun 2022, section 4.1) regularises not the representation itself but a
non-linear expansion of it: decorrelating `v` reduces dependencies in `s`, not only correlations.
"""

from __future__ import annotations

from torch import Tensor, nn


class Expander(nn.Module):
    """MLP with layer-norm between its maps.

    The paper uses batch-norm. Layer-norm keeps a sample's embedding independent of its batch, so
    that two ranks compute what one computes without a collective in every layer.

    Args:
        width: `D` of the representation.
        hidden: width inside and of `v`; 0 means the identity.
        depth: linear maps.
    """

    def __init__(self, width: int, hidden: int = 0, depth: int = 2) -> None:
        super().__init__()
        self.width = hidden or width
        layers: list[nn.Module] = []
        for i in range(depth if hidden else 0):
            layers += [nn.LayerNorm(hidden), nn.GELU()] if i else []
            layers += [nn.Linear(width if i == 0 else hidden, hidden)]
        self.net = nn.Sequential(*layers)

    def forward(self, s: Tensor) -> Tensor:
        """`... D` to `... V`."""
        v: Tensor = self.net(s)
        return v
