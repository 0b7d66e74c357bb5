"""A world of seconds: tiny episodes, world model and agent for tests."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TypeVar

import torch
from lightning import LightningModule
from torch import Tensor

from jepa_video.agent.actor import Search
from jepa_video.agent.mind import Mind, fresh, save_agent
from jepa_video.agent.world_files import save_world
from jepa_video.data.episodes import Facts
from jepa_video.models.conv import ConvEncoder
from jepa_video.models.dynamics import Dynamics
from jepa_video.models.state import VectorState
from jepa_video.training.world_model import WorldModel

Module = TypeVar("Module", bound=LightningModule)
ENCODER = {  # of `world()`, as a file tells it
    "class_path": "jepa_video.models.conv.ConvEncoder",
    "init_args": {"channels": 4, "width": 8},
}


def facts(**changes) -> Facts:
    told = dict(
        env="TwoRooms", settings={}, action_size=2, discrete=False, action_low=(-1.0, -1.0),
        action_high=(1.0, 1.0), action_names=("x", "y"), state_names=("x", "y"), state_size=2,
        size=64, fps=10.0,
    )  # fmt: skip
    return Facts(**{**told, **changes})


def world(frames: int = 1, told: Facts | None = None, **settings) -> WorldModel:
    torch.manual_seed(0)
    encoder = partial(ConvEncoder, frames=frames, tubelet=frames, channels=4, width=8)
    return WorldModel(told or facts(), encoder=encoder, **settings)


class Moving(Dynamics):
    """The state moves by `step` times the action, exactly; it is a place, and actions are ways."""

    history, latent_width = 1, 0

    def __init__(self, width: int = 2, tokens: int = 1, action: int = 2, *sizes: int) -> None:
        super().__init__()
        self.step = 1.0

    def forward(self, states: Tensor, actions: Tensor, z: Tensor | None = None) -> Tensor:
        return states[:, -1] + self.step * actions[:, -1][:, None]


def moving_world(step: float = 1.0, **changes) -> WorldModel:
    """A world whose states are places in the plane (or of `action_size` numbers)."""
    told = facts(**changes)
    model = world(
        told=told, dynamics=Moving, state=partial(VectorState, dim=told.action_size, hidden=8)
    )
    model.dynamics.step = step
    return model.eval().requires_grad_(False)


def on_trainer(module: Module, step: int = 0, total: int = 10) -> Module:
    """As Lightning would have it at a step, without a Trainer's machinery."""
    module._trainer = SimpleNamespace(global_step=step, estimated_stepping_batches=total)
    module._fabric = None
    module.log_dict = lambda *a, **k: None
    type(module).global_step = property(lambda self: self._trainer.global_step)
    return module


def batch(frames: int = 6, count: int = 4, seed: int = 0) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    video = torch.randint(0, 256, (count, frames, 3, 64, 64), generator=draw, dtype=torch.uint8)
    return {
        "video": video,
        "action": torch.rand(count, frames - 1, 2, generator=draw) * 2 - 1,
        "state": torch.randn(count, frames, 2, generator=draw),
        "reward": torch.randn(count, frames - 1, generator=draw),
    }


def save_tiny_agent(run: Path) -> None:
    """A run folder with an untrained world model and agent."""
    module = world()
    save_world(module, {"encoder": ENCODER}, run / "world")
    mind = Mind(1.0, {"goal": 1.0}, search=Search(3, 8, 2, 4), hidden=16, members=2, norm=1.0)
    save_agent(mind, fresh(mind, module), run / "agent")
