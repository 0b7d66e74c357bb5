"""What an agent is beside its world model: plain values, critic and policy; and their files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Final, NamedTuple

import torch
from safetensors.torch import save_file
from torch import nn

from ..errors import UserError
from ..interop.files import read_json, read_safetensors, whole_folder
from ..training.world_model import WorldModel
from .actor import Search, planner_of
from .chart import SIDES, SLOPE, Chart
from .cost import Critic, refuse_cost
from .level2 import Level2
from .policy import ReactivePolicy
from .reach import Reach, Ways
from .scene import completion
from .task import Zone
from .world_files import UNFIT, finite, said
from .worth import Worth

FOLDER: Final = "agent"
WEIGHTS: Final = "agent.safetensors"
CONFIG: Final = "config.json"


@dataclass(frozen=True)
class Mind:
    """What an agent is beside its world model, as plain values.

    Args:
        reach: distance of states that count as the same place, see `IntrinsicCost`.
        weights: of the cost's terms.
        goal: whether there are goals.
        discount: of each step.
        search: how mode 2 looks.
        hidden: width of critic and policy; 0 where there are none.
        members: networks of the critic, or charts; the landmarks of `ways` have their own groups.
        doubt: disagreement of the critic above which auto mode plans.
        worth: what a plan is to save, see `Worth`, where mode learned plans; None where it was not
            learned.
        zones: boxes to keep out of, for the term `zone`.
        norm: longest action; None where each number has its own limits alone.
        memory: patches of the scene that are remembered; 0 for none.
        ways: whether the critic is one of ways, see `Reach`.
        chart: cells along a token of the map where that one is a `Chart`; 0 where it is none.
        stride: steps of level 1 that one of level 2 takes, see `Level2`; 0 where there is none.
    """

    reach: float
    weights: dict[str, float]
    goal: bool = True
    discount: float = 0.97
    search: Search = field(default_factory=Search)
    hidden: int = 0
    members: int = 0
    doubt: float = 0.0
    zones: tuple[Zone, ...] = ()
    norm: float | None = None
    memory: int = 0
    ways: bool = False
    chart: int = 0
    stride: int = 0
    recall: int = 0
    worth: float | None = None

    def asked(
        self,
        weights: dict[str, float] | None,
        zones: Sequence[Zone] | None,
        world: WorldModel,
    ) -> Mind:
        """The same with another cost, as far as one is given; without `zone` zones are forgotten.

        Raises:
            UserError: a cost that cannot be told of states of this world.
        """
        if weights is None and zones is None:
            return self
        if weights is not None and not isinstance(weights, Mapping):
            raise UserError(f"weights are a dict of numbers by the terms' names, not {weights!r}")
        if zones is not None and not (
            isinstance(zones, Sequence) and all(isinstance(zone, Zone) for zone in zones)
        ):
            raise UserError(f"zones are a list of Zone(low, high, margin), not {zones!r}")
        weights = self.weights if weights is None else dict(weights)
        kept = self.zones if weights.get("zone") else ()
        zones = kept if zones is None else tuple(zones)
        facts = world.facts
        refuse_cost(weights, zones, self.goal, facts.state_size, facts.state_names, told=True)
        return replace(self, weights=weights, zones=zones)


def word_of(learned: Mind, asked: Mind) -> float:
    """How much a critic of values counts under another cost than it was taught.

    Where all terms that it foretells weigh f times what they did, f times its word is right for
    these; terms that came in are felt within the horizon alone. Else it foretells something else.
    """
    taught = {name: weight for name, weight in learned.weights.items() if weight}
    factors = {asked.weights.get(name, 0.0) / weight for name, weight in taught.items()}
    zones = not taught.get("zone") or learned.zones == asked.zones
    (factor, *others) = sorted(factors) or [0.0]
    return factor if zones and not others else 0.0


def critic_of(mind: Mind, world: WorldModel) -> Critic | Ways:
    """A fresh critic of this kind for the states of a world."""
    width, aim = world.state.width * world.state.tokens, world.state.aim if mind.goal else 0
    if mind.ways:
        weight = mind.weights["goal"]
        if mind.chart:
            if world.state.grid is None:
                raise UserError("learn.judge chart needs a map: give the world model MapState")
            shape = width, aim, world.state.grid, world.facts.action_size
            return Chart(*shape, mind.discount, weight, max(mind.members, 1), mind.chart)
        return Reach(width, aim, mind.hidden, mind.discount, weight, grid=world.state.grid)
    # What learns from memory's own steps is to see walls; what learns in imagination was measured
    # with states as they are.
    grid = world.state.grid if mind.recall else None
    return Critic(width, aim, mind.hidden, mind.members, grid, world.state.aim)


def level2_of(mind: Mind, world: WorldModel, critic: Critic | Ways) -> Level2 | None:
    """A fresh level 2 on the critic's chart; None where there is to be none."""
    if not mind.stride or not isinstance(critic, Chart):
        return None
    width, aim = world.state.width * world.state.tokens, world.state.aim
    shape = width, aim, critic.tokens, world.facts.action_size
    return Level2(*shape, mind.stride, mind.chart).follow(critic)


def policy_of(
    hidden: int, goal: bool, world: WorldModel, critic: Critic | Ways | None = None
) -> ReactivePolicy:
    """A fresh policy for the states of a world, with goals or without; a chart guides it."""
    facts, state = world.facts, world.state
    width, aim = state.width * state.tokens, state.aim if goal else 0
    guide = SLOPE if isinstance(critic, Chart) else 0
    made = ReactivePolicy(width, facts.action_size, facts.discrete, aim, hidden, state.grid, guide)
    if isinstance(critic, Chart):
        made.follow(critic)
    return made


def worth_of(hidden: int, goal: bool, world: WorldModel) -> Worth:
    """What tells the worth of a plan, for the states of a world, with goals or without."""
    state = world.state
    return Worth(state.width * state.tokens, state.aim if goal else 0, hidden, state.grid)


class Trained(NamedTuple):
    """What of an agent is trained, beside its world model."""

    critic: Critic | Ways
    policy: ReactivePolicy
    level2: Level2 | None = None
    worth: Worth | None = None

    def named(self) -> dict[str, nn.Module]:
        """Those that there are."""
        return {name: part for name, part in self._asdict().items() if part is not None}


def fresh(mind: Mind, world: WorldModel) -> Trained:
    """All of them before training."""
    worth = None if mind.worth is None else worth_of(mind.hidden, mind.goal, world)
    critic = critic_of(mind, world)
    policy = policy_of(mind.hidden, mind.goal, world, critic)
    return Trained(critic, policy, level2_of(mind, world, critic), worth)


def save_agent(mind: Mind, trained: Trained, folder: Path) -> None:
    """Write an agent's weights and config; a crash leaves no half of them."""
    weights = {
        f"{name}.{key}": value.detach().cpu().contiguous()
        for name, part in trained.named().items()
        for key, value in part.state_dict().items()
    }
    with whole_folder(folder) as draft:
        save_file(weights, draft / WEIGHTS, metadata={"format": "pt"})
        (draft / CONFIG).write_text(json.dumps(asdict(mind), indent=2) + "\n")


def read_agent(folder: Path, world: WorldModel) -> tuple[Mind, Trained]:
    """What `save_agent` wrote, for its world.

    Raises:
        UserError: it does not load.
    """
    entries, weights = read_json(folder / CONFIG), read_safetensors(folder / WEIGHTS)
    facts = world.facts
    try:
        finite(weights)
        known = {one.name for one in fields(Mind)}
        told = {name: value for name, value in entries.items() if name in known}
        told["search"] = Search(**told["search"])
        told["zones"] = tuple(
            Zone(tuple(z["low"]), tuple(z["high"]), z["margin"]) for z in told["zones"]
        )
        mind = Mind(**told)
        if mind.chart:  # once a chart had two groups, whatever was asked for
            mind = replace(mind, members=len(weights["critic.onward.weight"]) // SIDES)
        planner_of(mind.search, facts.action_size, facts.discrete, mind.norm)
        completion(mind.memory)
        with torch.random.fork_rng(devices=[]):
            trained = fresh(mind, world)
        for name, part in trained.named().items():
            own = f"{name}."
            part.load_state_dict(
                {k.removeprefix(own): v for k, v in weights.items() if k.startswith(own)}
            )
            part.requires_grad_(False)
    except (*UNFIT, UserError) as error:
        raise UserError(f"{folder} holds an agent that does not load: {said(error)}") from error
    return mind, trained
