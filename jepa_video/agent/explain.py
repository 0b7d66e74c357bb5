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
            after the end of a shorter plan the last one; None where the episodes told no states.
        doubt: disagreement of the critic, or what a plan is worth, `B`.
        horizon: actions of the plan, `B`; all that is imagined where it reacted.
        samples: sequences that its planner drew in an iteration, where it draws, `B`; 0 where the
            agent reacted.
        wrong: how far off lessons say that the world model is where mode 1 would go, in units of
            the reach, `B`; None where nobody looked.
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
    horizon: Array
    samples: Array
    wrong: Array | None = None
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
        setting: of the configurator, `completed`.
        situation: before it.
        actions: from then on, `B H A`.
        z: a draw of the latent, `B 1 L Z`; None where the world has none.
        cost: that was minimised.
        scene: what perception remembers.
        end: the goal itself, `B P D`; None where there is none.
    """
    future = cost.imagined(situation, actions[:, None], z)  # B 1 H P D
    horizon, samples = setting.sizes()
    imagined, aimed, on_way = None, None, None
    if cost.world.facts.state_size:
        path = torch.cat((situation.known[:, -1:], future[:, 0]), 1)
        times = torch.arange(path.shape[1], device=path.device).minimum(horizon[:, None])
        path = path[torch.arange(len(path), device=path.device)[:, None], times]
        imagined = cost.world.read(path, "state").cpu().numpy()
        if setting.task.goal is not None:
            aimed = cost.world.read(setting.task.goal, "state").cpu().numpy()
            if end is not None:
                on_way = (setting.task.goal != end).flatten(1).any(1).cpu().numpy()
        elif setting.task.goal_state is not None:
            aimed = setting.task.goal_state.cpu().numpy()
    modes = ["mode2" if plans else "mode1" for plans in setting.plans.tolist()]
    told = _terms(setting, situation, future, actions[:, None], cost)
    doubt, drawn = setting.doubt.cpu().numpy(), (samples * setting.plans).cpu().numpy()
    known = Explanation(modes, aimed, told, imagined, doubt, horizon.cpu().numpy(), drawn)
    known.on_way = on_way
    known.wrong = None if setting.wrong is None else setting.wrong.cpu().numpy()
    if scene is None or scene.store is None:
        return known
    known.remembered = scene.store.count.numpy()
    known.scene, known.recalled = scene.completed.numpy(), scene.recalled.numpy()
    return known


def _terms(
    setting: Setting, situation: Situation, future: Tensor, actions: Tensor, cost: WorldCost
) -> dict[str, Array]:
    """What each term adds to the cost of `B 1 H A`, each judged at its own end."""
    horizon, told = setting.sizes()[0], dict[str, Tensor]()
    for end in set(horizon.tolist()):
        parts = cost.parts(situation, future[:, :, :end], actions[:, :, :end], setting.task)
        for name, part in parts.items():
            told[name] = torch.where(horizon == end, part[:, 0], told.get(name, part[:, 0]))
    return {name: part.cpu().numpy() for name, part in told.items()}
