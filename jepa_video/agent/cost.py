"""The cost module: what is felt now (intrinsic, immutable) and what will be felt (the critic).

    C(s) = IC(s) + TC(s)        IC(s) = sum_i u_i IC_i(s)       TC(s_t) ~ sum_k g^k IC(s_(t+k))

LeCun (2022), section 3.2: the configurator sets the weights u_i; the critic learns from memory to
predict future intrinsic cost. Shapes: states `... P D`, actions `... A`, goals `B P D`; the terms
of a plan are `B S H`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..models.blocks import Mlp, Sought, Waves
from ..training.world_model import WorldModel
from .lessons import Taught
from .reach import LEAP, Ways
from .task import Situation, Task, Zone
from .tried import AGAIN

NUMBER: Final = "state."  # before the name of a number: the term of its distance from the goal's
GAP: Final = "gap."  # before two names: that of how far the two are apart
CURIOSITY: Final = "curiosity"
Read = Callable[[Tensor, Literal["state", "reward"]], Tensor]


class IntrinsicCost:
    """Named terms of a state and the action that led there, each 0 where all is well.

    Immutable: it has no parameters, no gradient changes it, and an attribute cannot be set or
    deleted. What differs from task to task is the `Task`, which is data.

    `goal`: `1 - exp(-|s - s_goal|^2 / 2 r^2)`: near 1 far from the goal, so that a plan's cost
    counts the steps until it is there. `distance`: the mean squared distance itself, in units of r.
    `reward`: the negative of the reward that a linear probe reads off the state. `effort`: the mean
    square of the action. `zone`: 1 inside of a box of the environment's state that is read off,
    falling to 0 over the margin. `state.NAME`: how far one number of the environment's state, read
    off, is from that of the goal, in its own unit: for goals that ask for a part of what the
    picture shows, or that are given by such numbers alone. `gap.NAME.NAME`: how far two numbers are
    apart, as finger and block: a plan that does not reach the block yet is to come nearer.
    `curiosity`: how well the world model is known to tell what comes of doing this there, 0 where
    that is new; it is of what memory holds, so that `WorldCost` adds it to plans, and a state alone
    has none.

    Args:
        reach: r, the distance of states that count as the same place.
        aim: how many of a state's numbers, from the first on, say where the agent is.
        read: tells `state` and `reward` of a state, as `WorldModel.read` does.
        names: of the environment's state.
    """

    TERMS: Final = ("goal", "distance", "reward", "effort", "zone", CURIOSITY)
    __slots__ = ("aim", "names", "reach", "read")
    reach: float
    aim: int
    read: Read
    names: tuple[str, ...]

    def __init__(self, reach: float, aim: int, read: Read, names: Sequence[str] = ()) -> None:
        object.__setattr__(self, "reach", float(reach))
        object.__setattr__(self, "aim", aim)
        object.__setattr__(self, "read", read)
        object.__setattr__(self, "names", tuple(names))

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"the intrinsic cost is immutable: {name} cannot be set")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"the intrinsic cost is immutable: {name} cannot be deleted")

    def terms(self, states: Tensor, actions: Tensor, task: Task) -> dict[str, Tensor]:
        """The terms with a weight, weighted: states `B ... P D` and actions `B ... A` to `B ...`.

        Raises:
            UserError: an unknown term, or one that needs a goal where there is none.
        """
        told: dict[str, Tensor] = {}
        for name, weight in task.weights.items():
            _known(name, self.names)
            if weight and name.startswith(NUMBER):
                told[name] = weight * self._number(states, task, name.removeprefix(NUMBER))
            elif weight and name.startswith(GAP):
                told[name] = weight * self._apart(states, name)
            elif weight and name != CURIOSITY:
                told[name] = weight * getattr(self, f"_{name}")(states, actions, task)
        return told

    def __call__(self, states: Tensor, actions: Tensor, task: Task) -> Tensor:
        """The sum of the terms, `B ...`."""
        told = list(self.terms(states, actions, task).values())
        if not told:
            return states.new_zeros(states.shape[:-2])
        return torch.stack(told).sum(0)

    def _gap(self, states: Tensor, task: Task) -> Tensor:
        """Squared distance from the goal in units of r, `B ...`."""
        if task.goal is None:
            raise UserError("the costs goal and distance need a goal; this task has none")
        aimed = task.goal.flatten(1)[:, : self.aim]
        aimed = aimed.view(len(aimed), *[1] * (states.ndim - 3), self.aim)
        gap = states.flatten(-2)[..., : self.aim] - aimed
        return gap.square().sum(-1) / self.reach**2

    def _goal(self, states: Tensor, actions: Tensor, task: Task) -> Tensor:
        return 1 - torch.exp(-self._gap(states, task) / 2)

    def _distance(self, states: Tensor, actions: Tensor, task: Task) -> Tensor:
        return self._gap(states, task)

    def _reward(self, states: Tensor, actions: Tensor, task: Task) -> Tensor:
        return -self.read(states, "reward")[..., 0]

    def _effort(self, states: Tensor, actions: Tensor, task: Task) -> Tensor:
        return actions.square().mean(-1)

    def _number(self, states: Tensor, task: Task, name: str) -> Tensor:
        told, which = task.goal_state, self.names.index(name)
        if told is None:
            if task.goal is None:
                raise UserError(f"the cost {NUMBER}{name} needs a goal; this task has none")
            told = self.read(task.goal, "state")
        aimed = told[..., which].view(len(told), *[1] * (states.ndim - 3))
        here = self.read(states, "state")[..., which]
        return (here - torch.where(aimed.isnan(), here, aimed)).abs()  # NaN: does not matter

    def _apart(self, states: Tensor, name: str) -> Tensor:
        one, other = (self.names.index(each) for each in pair_of(name))
        told = self.read(states, "state")
        return (told[..., one] - told[..., other]).abs()

    def _zone(self, states: Tensor, actions: Tensor, task: Task) -> Tensor:
        where = self.read(states, "state")
        total = where.new_zeros(where.shape[:-1])
        for zone in task.zones:
            total = total + inside(where, zone)
        return total


def pair_of(name: str) -> list[str]:
    """The two numbers of the term `gap.A.B`."""
    return name.removeprefix(GAP).split(".", 1)


def _known(name: str, names: Sequence[str]) -> None:
    told = IntrinsicCost.TERMS + tuple(NUMBER + number for number in names)
    if name.startswith(GAP) and len(both := pair_of(name)) == 2 and set(both) <= set(names):
        return
    if name not in told:
        more = f", and {GAP}A.B of two of {', '.join(names)}" if len(names) > 1 else ""
        raise UserError(f"there is no cost {name!r}; there are {', '.join(told)}{more}")


def refuse_cost(
    weights: Mapping[str, float],
    zones: Sequence[Zone],
    goal: bool,
    state_size: int,
    names: Sequence[str] = (),
    told: bool = False,
) -> None:
    """Say what a cost cannot be told by.

    Args:
        weights: of its terms.
        zones: boxes to keep out of.
        goal: whether there are goals.
        state_size: numbers of the environment's state that can be read off.
        names: theirs.
        told: whether such numbers may tell a goal, where there are no goals.

    Raises:
        UserError: unknown terms or none, a weight that is not finite, a negative one of `goal`, no
            goal, no zones or none that count, zones elsewhere.
    """
    for name, weight in weights.items():
        _known(name, names)
        if not isinstance(weight, Real) or not math.isfinite(weight):
            raise UserError(f"the cost {name} takes a finite weight, not {weight!r}")
        if name == "goal" and weight < 0:  # ways are as long, whatever is wished for
            raise UserError(f"the cost goal takes a weight of 0 or more, not {weight}")
    asked = [name for name, weight in weights.items() if weight]
    if not asked:
        raise UserError("cost gives no term a weight other than 0: there is nothing to judge by")
    for name in asked:
        numbers = name.startswith(NUMBER) and not told
        if (name in ("goal", "distance") or numbers) and not goal:
            raise UserError(f"the cost {name} needs a goal, and the environment shows none")
    if "zone" in asked and not zones:
        raise UserError("the cost zone needs boxes, as in: --zones '[{low: [8, 8], high: [9, 9]}]'")
    if zones and "zone" not in asked:
        raise UserError("zones count by the cost zone: give it a weight, as in: --cost '{zone: 1}'")
    for zone in zones:
        if len(zone.low) > state_size:
            raise UserError(
                f"a zone of {len(zone.low)} numbers lies in no state of {state_size} numbers"
            )


def inside(where: Tensor, zone: Zone) -> Tensor:
    """1 within the box, 0 from the margin on, linear between: `... S` to `...`."""
    size = len(zone.low)
    low, high = where.new_tensor([zone.low, zone.high])
    out = torch.maximum(low - where[..., :size], where[..., :size] - high).amax(-1)
    return (1 - out / max(zone.margin, 1e-6)).clamp(0, 1)


class Critic(nn.Module):
    """Predicts the discounted intrinsic cost that is to come, by several networks.

    They differ by their first weights and by what they make of them; where they disagree, it has
    not seen enough. Costs are at least 0 where terms are, but a reward makes them negative, so that
    the answer is not bounded.

    Args:
        width: `D` times `P` of a state.
        aim: how many of a goal's numbers, from the first on, are looked at; 0 for no goal.
        hidden: width inside.
        members: networks.
        grid: rows and columns of the cells that a state's numbers after the first `place` are of,
            if they are: places are then looked for in them, as walls are sharp.
        place: see `grid`.

    Attributes:
        first: what the critic says at first: a mean cost for ever, once it was measured.
        unit: in what it counts from there.
    """

    def __init__(
        self,
        width: int,
        aim: int,
        hidden: int = 256,
        members: int = 2,
        grid: tuple[int, int] | None = None,
        place: int = 0,
    ) -> None:
        super().__init__()
        self.aim, self.goal, self.place = aim, aim > 0, place
        self.look = Sought(width - place, grid) if grid else None
        found = width if self.look is None else place + self.look.out
        self.waves = Waves(found + 2 * aim) if grid else None
        wide = found + 2 * aim if self.waves is None else self.waves.out
        self.members = nn.ModuleList(
            nn.Sequential(
                nn.Linear(wide, hidden), nn.LayerNorm(hidden), nn.GELU(), Mlp(hidden, hidden, 1)
            )
            for _ in range(members)
        )
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))
        self.first: Tensor
        self.unit: Tensor
        self.register_buffer("first", torch.zeros(()))
        self.register_buffer("unit", torch.ones(()))

    def each(self, states: Tensor, goal: Tensor | None) -> Tensor:
        """What each network says: `N P D` and `N P D` to `M N`."""
        seen = beside((states, self.mean, self.std), goal, self.aim)
        if self.look is not None and self.waves is not None:
            here, scene, rest = seen.tensor_split((self.place, len(self.mean)), 1)
            seen = self.waves(torch.cat((here, self.look(scene), rest), 1))
        told = torch.stack([member(seen)[:, 0] for member in self.members])
        return self.first + self.unit * told

    def forward(self, states: Tensor, goal: Tensor | None) -> Tensor:
        """The mean of the networks, `N`."""
        return self.each(states, goal).mean(0)


def beside(scaled: tuple[Tensor, Tensor, Tensor], goal: Tensor | None, aim: int) -> Tensor:
    """States `N P D` (with mean and deviation) and what lies before the goal: `N P*D+2 aim`.

    Raises:
        UserError: there has to be a goal, and there is none.
    """
    states, mean, std = scaled
    s = (states.flatten(1) - mean) / std
    if not aim:
        return s
    if goal is None:
        raise UserError("critic and policy were trained for goals; the task has none")
    g = (goal.flatten(1)[:, :aim] - mean[:aim]) / std[:aim]
    return torch.cat((s, g, s[:, :aim] - g), 1)


def foreseen(
    world: WorldModel, situation: Situation, actions: Tensor, z: Tensor | None = None
) -> Tensor:
    """The states `N H P D` after actions `N H A`, with the lessons of the episode.

    The N rows are as many of each environment that has lessons, one environment after the other.
    """
    known, past, lessons, _ = situation
    if lessons is None:
        return world.imagine(known, actions, z, past)
    return Taught(world.dynamics, lessons).rollout(known, actions, z, past)


class WorldCost:
    """`cost(situation, actions[B, S, H, A], task) -> [B, S]`: all that a planner asks.

    Intrinsic cost of every imagined state on the way, discounted, and the critic's word at the end.
    The present is encoded once, before; candidates cost rollouts of the dynamics alone.

    Args:
        world: imagines.
        intrinsic: judges what is imagined.
        critic: judges what comes after; None for nothing. One of ways (`Ways`) knows leaps too:
            imagined steps that no step of memory is as long as, such as through a wall. A `Chart`
            counts them among its steps where memory notes what stops the agent.
        discount: of each step.
        final: weight of the last state's intrinsic cost beside its share, where nobody judges what
            comes after or a plan's end is its end for ever; what an action costs is paid once.
        word: what the critic's counts, where it is one of values.
    """

    def __init__(
        self,
        world: WorldModel,
        intrinsic: IntrinsicCost,
        critic: Critic | Ways | None = None,
        discount: float = 0.97,
        final: float = 0.0,
        word: float = 1.0,
    ) -> None:
        self.world, self.intrinsic, self.critic = world, intrinsic, critic
        self.discount, self.final, self.word = discount, final, word

    def __call__(
        self, state: Situation, actions: Tensor, task: Task, z: Tensor | None = None
    ) -> Tensor:
        """Candidates `B S H A`, with latents `B S L Z` where the world has some, to costs `B S`."""
        future = self.imagined(state, actions, z)  # B S H P D
        told = list(self.parts(state, future, actions, task).values())
        if not told:
            return actions.new_zeros(actions.shape[:2])
        return torch.stack(told).sum(0)

    def parts(
        self, state: Situation, future: Tensor, actions: Tensor, task: Task
    ) -> dict[str, Tensor]:
        """What each term adds, `B S`, to the cost of states `B S H P D` that actions lead to.

        Beside the terms `critic` and, of a critic of ways, `leap`, as much as the goal weighs; and
        `tried`, where memory says what was.

        Raises:
            UserError: no goal for a critic of ways, or nothing remembered for `curiosity`.
        """
        horizon, now = actions.shape[2], state.known[:, -1]
        shares = self.discount ** torch.arange(horizon, device=future.device, dtype=future.dtype)
        # A state may last; what an action costs is paid once.
        stays = shares + self.final * (torch.arange(horizon, device=future.device) == horizon - 1)
        terms = self.intrinsic.terms(future, actions, task)
        told = {
            name: (value * (shares if name == "effort" else stays)).sum(-1)
            for name, value in terms.items()
        }
        if isinstance(self.critic, Ways):
            told |= self._ways(self.critic, state, future, task)
            if self.critic.shun is not None and "zone" in terms:
                told |= self._longer(told["critic"], terms["zone"], task)
        elif self.critic is not None:
            last, goal = future[:, :, -1].flatten(0, 1), task.goal
            each = None if goal is None else goal.repeat_interleave(actions.shape[1], 0)
            later = self.critic(last, each if self.critic.goal else None)
            share = self.word * self.discount**horizon
            told["critic"] = share * later.view(actions.shape[:2])
        if weight := task.weights.get(CURIOSITY):
            if state.lessons is None:
                raise UserError("the cost curiosity is of lessons: search.lessons must be above 0")
            known = 1 - state.lessons.surprise(*self._done(now, future, actions))
            told[CURIOSITY] = weight * (known.view(actions.shape[:3]) * shares).sum(-1)
        if state.tried is not None:
            again = state.tried.often(*self._done(now, future, actions)).view(actions.shape[:3])
            price = AGAIN * task.weights.get("goal", 0.0)
            told["tried"] = price * (again * shares).sum(-1)
        return told

    def _done(self, now: Tensor, future: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """What plans do where: places `BSH D` before each step, and its actions `BSH A`."""
        way = future[:, :, :-1].flatten(3)[..., : self.intrinsic.aim]
        begin = now.flatten(1)[:, None, None, : self.intrinsic.aim]
        places = torch.cat((begin.expand(-1, way.shape[1], -1, -1), way), 2)
        return places.flatten(0, 2), actions.flatten(0, 2)

    def _ways(self, ways: Ways, state: Situation, future: Tensor, task: Task) -> dict[str, Tensor]:
        """What a critic of ways adds, which foretells the cost `goal` alone."""
        share = task.weights.get("goal", 0.0) / ways.weight
        if not share:
            return {}
        if task.goal is None:
            raise UserError("the critic was trained for goals; the task has none")
        now = state.known[:, -1]
        left, over = ways.foretold(now, task.goal, future, tried=state.tried)
        later = self.discount ** future.shape[2] * left[:, :, -1]
        price = LEAP * task.weights["goal"]
        return {"critic": share * later, "leap": price * over.sum(-1)}

    def _longer(self, critic: Tensor, zone: Tensor, task: Task) -> dict[str, Tensor]:
        """The cost `zone` `B S H` of plans whose critic knows ways around: `B S`.

            zone = u_goal g^(H + left) (1 - g^Z) / (1 - g)      Z = sum_t u_zone IC_zone / u_goal

        On the chart a step in a zone is so many steps longer, and so it is in a plan: were it felt
        at once and whole, a plan that leaves it for later would always be the better one.
        """
        goal, horizon = task.weights["goal"], zone.shape[-1]
        share = self.discount**horizon - critic * (1 - self.discount) / goal  # g^(H + left)
        more = 1 - self.discount ** (zone.sum(-1) / goal)
        return {"zone": goal * share * more / (1 - self.discount)}

    def imagined(self, state: Situation, actions: Tensor, z: Tensor | None = None) -> Tensor:
        """The states `B S H P D` that candidates `B S H A` lead to."""
        batch, samples = actions.shape[:2]
        known, past = (part.repeat_interleave(samples, 0) for part in state[:2])
        each = None if z is None else z.flatten(0, 1)
        whole = Situation(known, past, state.lessons)
        future = foreseen(self.world, whole, actions.flatten(0, 1), each)
        shaped: Tensor = future.view(batch, samples, *future.shape[1:])
        return shaped
