"""What an agent says of its last decisions: mode, sub-goal, cost, and the future it imagined."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..envs.base import Array
from .configurator import Setting
from .cost import WorldCost
from .scene import SceneMemory
from .task import Situation


@dataclass
class Explanation:
    """The last decision of each environment.

    Attributes:
        mode: `mode1` or `mode2`, B of them.
        sub_goal: the state that was aimed at, read as the environment's, `B S`; without a picture
            of it the numbers that were given, or None.
        terms: what each term adds to the cost of the imagined future, and `critic`, each `B`; their
            sum is what `WorldCost` gives. Where the world has a latent, with the first draw of z.
        imagined: the present state and the imagined ones, read as the environment's, `B H+1 S`;
            None where the episodes told no states.
        doubt: disagreement of the critic, `B`.
        on_way: whether that is a sub-goal on the way and not the goal, bool `B`; None likewise.
        remembered: patches of the scene that memory holds, `B`; None without a memory, as are:
        scene: the picture with what it recalled, uint8 `B H W 3`.
        recalled: which pixels of it are not seen and were recalled, bool `B H W`.
    """

    mode: list[str]
    sub_goal: Array | None
    terms: dict[str, Array]
    imagined: Array | None
    doubt: Array
    on_way: Array | None = None
    remembered: Array | None = None
    scene: Array | None = None
    recalled: Array | None = None


@torch.no_grad()
def explained(
    setting: Setting,
    situation: Situation,
    actions: Tensor,
    z: Tensor | None,
    cost: WorldCost,
    scene: SceneMemory | None = None,
    end: Tensor | None = None,
) -> Explanation:
    """A decision, told by what it was made of.

    Args:
        setting: of the configurator.
        situation: before it.
        actions: from then on, `B H A`.
        z: a draw of the latent, `B 1 L Z`; None where the world has none.
        cost: that was minimised.
        scene: what perception remembers.
        end: the goal itself, `B P D`; None where there is none.
    """
    future = cost.imagined(situation, actions[:, None], z)  # B 1 H P D
    parts = cost.parts(situation, future, actions[:, None], setting.task)
    told = {name: part[:, 0].cpu().numpy() for name, part in parts.items()}
    imagined, aimed, on_way = None, None, None
    if cost.world.facts.state_size:
        path = torch.cat((situation.known[:, -1:], future[:, 0]), 1)
        imagined = cost.world.read(path, "state").cpu().numpy()
        if setting.task.goal is not None:
            aimed = cost.world.read(setting.task.goal, "state").cpu().numpy()
            if end is not None:
                on_way = (setting.task.goal != end).flatten(1).any(1).cpu().numpy()
        elif setting.task.goal_state is not None:
            aimed = setting.task.goal_state.cpu().numpy()
    modes = ["mode2" if plans else "mode1" for plans in setting.plans.tolist()]
    known = Explanation(modes, aimed, told, imagined, setting.doubt.cpu().numpy(), on_way)
    if scene is None or scene.store is None:
        return known
    known.remembered = scene.store.count.numpy()
    known.scene, known.recalled = scene.completed.numpy(), scene.recalled.numpy()
    return known
