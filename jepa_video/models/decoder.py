"""The diagnostic decoder: what can be read off frozen states. It is never part of a loss.

Shapes: states `... D`, values `... O`: the pixels of a token, or known factors such as a position.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

PENALTIES = tuple(10.0**power for power in range(-1, 6))


class Decoder(nn.Module):
    """Ridge regression from states to values, solved in closed form.

    Linear on purpose: what it shows is in the states, and not in the decoder. It has buffers and no
    parameters, so that no optimiser can take it along, and it detaches what it is given.

    Args:
        width: `D` of the states.
        out: `O`, values for each state.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(width, out))
        self.register_buffer("bias", torch.zeros(out))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    def forward(self, states: Tensor) -> Tensor:
        """`... D` to `... O`, without gradient to the states."""
        told: Tensor = (states.detach().to(self.mean) - self.mean) / self.scale @ self.weight
        return told + self.bias

    @torch.no_grad()
    def fit(
        self, states: Tensor, values: Tensor, penalties: Sequence[float] = PENALTIES
    ) -> Decoder:
        """Fit states `N D` to values `N O`; the last fifth of the rows chooses the penalty.

        Args:
            states: rows of one clip lie together, so that hardly any clip is on both sides.
            values: in any unit; large ones weigh more in the choice.
            penalties: factors of the squared weights, for standardised states.

        Raises:
            ValueError: there are fewer than five rows.
        """
        n = len(states)
        if n < 5:
            raise ValueError(f"a decoder needs five rows or more, got {n}")
        x, y = states.double(), values.double()
        mean, spread = x.mean(0), x.std(0, correction=0)
        scale = torch.where(spread > 1e-8 * x.abs().amax().clamp(min=1e-30), spread, 1.0)
        x = (x - mean) / scale
        cut = n - n // 5
        errors = []
        for penalty in penalties:
            weight, bias = _ridge(x[:cut], y[:cut], penalty)
            errors.append(float((x[cut:] @ weight + bias - y[cut:]).square().mean()))
        best = penalties[errors.index(min(errors))] if len(penalties) > 1 else penalties[0]
        weight, bias = _ridge(x, y, best)
        for name, value in (("weight", weight), ("bias", bias), ("mean", mean), ("scale", scale)):
            setattr(self, name, value.to(getattr(self, name)))
        return self


def _ridge(x: Tensor, y: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Weight `D O` and free bias `O` of the smallest `|x W + b - y|^2 + penalty |W|^2`."""
    middle, offset = x.mean(0), y.mean(0)
    rows = x - middle
    gram = rows.T @ rows + penalty * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    weight = torch.linalg.solve(gram, rows.T @ (y - offset))
    return weight, offset - middle @ weight
