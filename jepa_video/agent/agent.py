"""The agent: six modules around a world model, behind one `act`.

    agent = Agent.load("runs/rooms", env)        # a run of `agent fit`, or of `world` alone
    agent.reset(seeds)
    actions = agent.act(observation)             # batched over environments
    agent.explain()                              # mode, cost terms, the imagined plan

Perception estimates the state, the configurator sets the mode and the task, the actor reacts or
plans through the world model for the lowest cost, and memory keeps what was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from ..distributed import device_of
from ..envs.base import Array, BatchEnv, Observation
from ..errors import UserError
from ..randomness import EPISODE, generator
from ..training.passages import Passage
from ..training.world_model import WorldModel
from .actor import MEAN, Actor, Search
from .configurator import Setting, configurator_of, set_by
from .cost import CURIOSITY, IntrinsicCost, WorldCost
from .explain import Explanation, explained
from .goals import needs_goal, refuse_untold, told_goal
from .itinerary import Itinerary
from .kept import Kept
from .lessons import Notebook
from .level2 import Ahead
from .memory import Moments
from .mind import FOLDER, WEIGHTS, Mind, Trained, read_agent, word_of
from .perception import Perception, shown
from .planners.base import Plan, merged
from .reach import Ways
from .shunned import shunning, told_by_zones
from .task import Situation, Task, Zone
from .tried import Tried
from .world_files import load_world, reach_of, refuse_other

PLAN: Final = 11  # stream of the planners' draws, beside those of an episode
MODES: Final = ("mode1", "mode2", "auto", "learned")
# Without a critic the horizon has to reach the goal by itself.
FAR: Final = Search(horizon=24, samples=128, iterations=4, elites=12, colour=2.0, every=2)


class Agent:
    """A policy, batched over environments; see the top of the file.

    Args:
        world: frozen.
        mind: plain values.
        trained: by `agent fit`; None where there was none.
        mode: `mode1`, `mode2`, or `auto`: as mode 2 where the critic's networks disagree, else as
            mode 1; with one network, or none, it always plans. `learned`: as mode 2 where it was
            learned that a plan is worth it.
        device: where it computes.
        word: what a critic of values counts, see `word_of`; nothing for 0.

    Attributes:
        moments: time, state, action and intrinsic cost of the last decisions, as many as
            `mind.search.tried`; None before the first one, and where that is 0 or the cost has no
            term `goal`.
        notebook: what the world model got wrong in this episode, see `lessons.py`; None where
            `mind.search.lessons` is 0, and in mode 1.
    """

    def __init__(
        self,
        world: WorldModel,
        mind: Mind,
        trained: Trained | None = None,
        mode: str = "auto",
        device: torch.device | str = "cpu",
        word: float = 1.0,
    ) -> None:
        self.device = device_of(device)
        self.world, self.mind, self.mode = world.to(self.device).eval(), mind, mode
        for part in trained.named().values() if trained else ():
            part.to(self.device).eval()
        names = self.world.facts.state_names
        intrinsic = IntrinsicCost(mind.reach, self.world.state.aim, self.world.read, names)
        self.trained = trained = trained and shunning(trained, intrinsic, mind)
        self.critic = trained.critic if trained and word else None
        judge = self.critic if mind.search.critic else None
        self.policy = trained.policy if trained else None
        if mind.weights.get(CURIOSITY) and not mind.search.lessons:
            raise UserError(
                "the cost curiosity is of what an episode has taught: give --search '{lessons: 64}'"
            )
        silent = isinstance(judge, Ways) and not mind.weights.get("goal")
        final = 1.0 if judge is None or silent else 0.0  # nobody judges what comes after
        if mind.search.deadline:  # what is at the end of a plan is so for ever
            final = mind.discount**mind.search.horizon / (1 - mind.discount)
        self.cost = WorldCost(self.world, intrinsic, judge, mind.discount, final, word)
        self.actor = Actor(self.cost, mind.search, mind.norm, self.policy)
        self.perception = Perception(self.world, self.device, mind.memory)
        self.ahead = self._ahead()
        self.configurator = configurator_of(mode, mind, trained, self.critic, self._react)
        self.costed = 0  # sequences, of the last plan that there was
        self._begin(0, [])

    def _ahead(self) -> Ahead | None:
        """What sets sub-goals, where two levels are asked for."""
        search = self.mind.search
        if search.levels < 2:
            return None
        trained = self.trained
        if trained is None or trained.level2 is None:
            raise UserError("search.levels 2 needs an agent that was fitted with learn.stride")
        return Ahead(trained.level2, search.far)

    # -- a policy ----------------------------------------------------------------------------------

    def reset(self, seeds: Sequence[int]) -> None:
        """Begin one episode for each seed; all draws follow from these and the time."""
        self._begin(len(seeds), list(seeds))

    def _begin(self, batch: int, seeds: list[int]) -> None:
        self.seeds, self.time = seeds, 0
        self.configurator.begin(seeds)
        self.perception.reset()
        if self.ahead is not None:
            self.ahead.reset()
        self.itinerary: Itinerary | None = None
        self.goal_state: Tensor | None = None
        self.plan_now: Plan | None = None
        self.age = torch.zeros(batch, dtype=torch.long)  # decisions since the plan was made
        self.over = torch.zeros(batch, dtype=torch.bool, device=self.device)
        self.known: list[Tensor] = []
        self.done: list[Tensor] = []
        self.calls = 0
        self.moments: Moments | None = None
        self.notebook: Notebook | None = None
        self.kept = Kept()
        self.reaction: tuple[Task, Tensor] | None = None  # of this decision
        self._last: tuple[Setting, Situation, Tensor] | None = None

    def act(self, observation: Observation) -> Array:
        """Actions `B A` in [-1, 1], or whole numbers `B`, for a batch of observations.

        Of the first one the goal is read: a picture `B H W 3`, or `B G H W 3`, sub-goals in their
        order of which the last is the goal; and `goal_state`, numbers of the environment's state
        `B S` (NaN for those that do not matter), which the costs `state.NAME` go by in place of
        the picture's. A cost that needs no goal goes without.

        Raises:
            UserError: no batch of pictures, one of another number of environments than before, or
                no goal where cost, critic or policy need one.
        """
        seen = shown(observation, len(self.seeds))
        if self.time == 0:
            self._set_goal(observation)
        state = self.perception.see(*seen)
        if not self.seeds:
            self._begin_unseeded(len(state))
        self._learn(state)
        self._remember(state)
        task = Task(self._aim(state), self.mind.weights, self.mind.zones, self.goal_state)
        situation, self.reaction = self._situation(task.goal), None
        setting = self.configurator.configure(state, task, situation)
        search, plans = self.mind.search, setting.plans & ~self.over
        setting = replace(setting, plans=plans).completed(search.horizon, search.samples)
        whole = self._decide(setting, situation)
        self._last = (setting, situation, whole)
        actions = whole[:, 0]
        if self.mind.search.tried and self.mind.weights.get("goal"):
            self._note(state, actions, setting.task)
        self._forget()
        self.done = [*self.done, actions][-self.world.dynamics.history :]
        self.time += 1
        return self._given(actions)

    def _begin_unseeded(self, batch: int) -> None:
        self.seeds = list(range(batch))
        self.configurator.begin(self.seeds)
        self.age = torch.zeros(batch, dtype=torch.long)
        self.over = torch.zeros(batch, dtype=torch.bool, device=self.device)

    def rest(self, over: Array) -> None:
        """Plan no more, until the next reset, for the episodes that are over, bool `B`."""
        self.over = torch.from_numpy(over).to(self.device)

    def _set_goal(self, observation: Observation) -> None:
        """Read the goal, by pictures or numbers, or say it where something needs one."""
        numbers = told_goal(observation, self.world.facts.state_size)
        self.goal_state = None if numbers is None else numbers.to(self.device)
        if self.mind.goal and observation.get("goal") is not None:
            self.itinerary = self._itinerary(observation)
            return
        if needs_goal(self.mind.weights, self.cost.critic, self.policy, self.configurator):
            more = "" if numbers is None else ": by numbers go plans for the costs state.NAME alone"
            raise UserError(f"this agent was made for goals, and the environment shows none{more}")
        if numbers is None:
            refuse_untold(self.mind.weights)

    def _itinerary(self, observation: Observation) -> Itinerary:
        pictures, felt = observation["goal"], observation.get("goal_felt")
        if pictures.ndim == 5 and self.world.felt:
            raise UserError("this agent feels its state, and nobody tells how sub-goals feel")
        listed = pictures if pictures.ndim == 5 else pictures[:, None]
        each = [self.perception.picture(listed[:, i], felt) for i in range(listed.shape[1])]
        return Itinerary(torch.stack(each, 1), self.world.state.aim, self.mind.reach)

    def _aim(self, state: Tensor) -> Tensor | None:
        """The goal, or the sub-goal on the way to it."""
        if self.itinerary is None:
            return None
        goal = self.itinerary.aim(state)
        if self.ahead is None:
            return goal
        return self.ahead.aim(state, goal, self.over, self._tried(goal))

    def _remember(self, state: Tensor) -> None:
        self.known = [*self.known, state][-self.world.dynamics.history :]

    @torch.no_grad()
    def _learn(self, state: Tensor) -> None:
        """Note what came otherwise than the world model alone would have told."""
        count, world = self.mind.search.lessons, self.world
        if not count or self.mode == "mode1":  # which looks at no plan
            return
        if self.notebook is None or self._last is None:
            sizes = world.state.aim, world.facts.action_size
            self.notebook = Notebook(len(state), count, *sizes, self.mind.reach, self.device)
            return
        known, past = self._last[1][:2]
        passage = Passage(known, past, self.done[-1][:, None], state[:, None])
        z = None
        if world.latent.dim:  # one by one: each has its own draws
            draws = self._draws(torch.arange(len(state)), self.time - 1)
            rows = (Passage(*(part[i : i + 1] for part in passage)) for i in range(len(state)))
            z = torch.cat([world.explain(row, draw) for row, draw in zip(rows, draws, strict=True)])
        told = world.imagine(known, passage.actions, z, past)[:, 0]
        self.notebook.write(known[:, -1], self.done[-1], told, state)

    def _note(self, state: Tensor, actions: Tensor, task: Task) -> None:
        """Write this moment to memory."""
        if self.moments is None:
            batch, *shape = state.shape
            sizes = (shape[0], shape[1]), actions.shape[1]
            self.moments = Moments(batch, self.mind.search.tried, *sizes, self.device)
        cost = self.cost.intrinsic(state, actions, task)
        self.moments.write(self.time, state, actions, cost)

    def _forget(self) -> None:
        """Let go of what is too long ago to hold still."""
        for held in (self.moments, self.notebook):
            if held is not None and self.mind.search.forget:
                held.store.forget(age=self.mind.search.forget)

    def _situation(self, goal: Tensor | None) -> Situation:
        known = torch.stack(self.known, 1)
        past = self.done[len(self.done) - known.shape[1] + 1 :]
        width = self.world.facts.action_size
        empty = known.new_zeros(len(known), 0, width)
        lessons = None if self.notebook is None else self.notebook.now()
        done = torch.stack(past, 1) if past else empty
        return Situation(known, done, lessons, self._tried(goal))

    def _tried(self, goal: Tensor | None) -> Tried | None:
        """What memory holds of this episode, where it was not at the goal."""
        if self.moments is None:
            return None
        told, aim = self.moments.held(), self.world.state.aim
        felt = self.cost.intrinsic(told.state, told.action, Task(goal, {"goal": 1.0}))
        came = self.moments.after(self.known[-1].flatten(1)[:, :aim])
        return Tried.of(told, came, felt, aim, self.mind.reach, self.mind.search.stopped)

    def _decide(self, setting: Setting, situation: Situation) -> Tensor:
        """Actions from now on, `B H A`: planned, or a reaction that is imagined to be held."""
        state, plans = situation.known[:, -1], setting.plans
        horizon, width = self.mind.search.horizon, self.world.facts.action_size
        whole = state.new_zeros(len(state), horizon, width)
        if plans.any():
            planned = self._planned(setting, situation)
            whole = torch.where(plans[:, None, None], planned, whole)
        if not plans.all() and self.policy is not None:
            react = self._react(setting.task, situation)
            whole = torch.where(plans[:, None, None], whole, react[:, None])
        # A plan that was not followed is of another present.
        self.age = torch.where(plans.cpu(), self.age, 0)
        if self.plan_now is not None:
            self.plan_now = self.plan_now.forgotten(~plans)
        return whole

    def _react(self, task: Task, situation: Situation) -> Tensor:
        """What mode 1 does, `B A`: looked for once in a decision, whoever asks."""
        if self.reaction is None or self.reaction[0] is not task:
            state, tried = situation.known[:, -1], situation.tried
            self.reaction = task, self.actor.react(state, task, tried, self.kept)
        return self.reaction[1]

    def _planned(self, setting: Setting, situation: Situation) -> Tensor:
        """The plans `B H A`: each anew after `every` decisions, else what is left of it."""
        begun = before = self.plan_now.shifted(1) if self.plan_now is not None else None
        plans, every = setting.plans.cpu(), self.mind.search.every
        due = plans & ((self.age == 0) | (self.age >= every))
        for horizon, samples, which in setting.alike(due.to(self.device)):
            told = situation.rows(which), setting.task.rows(which), begun and begun.rows(which)
            plan = self.actor.plan(*told, self._draws(which, self.time), horizon, samples)
            self.calls += len(which)
            self.costed = plan.evaluations  # of the largest, where there are several
            before = merged(plan, which, before, len(plans))
        self.age = torch.where(due, 0, self.age) + 1
        assert before is not None  # an environment without a plan is due
        self.plan_now = before
        return before.actions.nan_to_num(nan=0.0)

    def _draws(self, which: Tensor, time: int) -> list[torch.Generator]:
        """A generator for each environment, of its seed and the time alone."""
        return [generator(self.seeds[i], EPISODE, PLAN, time) for i in which.tolist()]

    def _given(self, actions: Tensor) -> Array:
        if self.world.facts.discrete:
            return np.asarray(actions.argmax(-1).cpu().numpy(), np.int64)
        return np.asarray(actions.cpu().numpy(), np.float32)

    # -- what it was made of -----------------------------------------------------------------------

    @property
    def facts(self) -> dict[str, Any]:
        """Planner and budget, for a table; `sequences` is how many the last plan costed."""
        search = self.mind.search
        told = {"mode": self.mode, "critic": self.cost.critic is not None}
        told |= {"memory": self.mind.memory} if self.mind.memory else {}
        told |= {"tried": search.tried} if search.tried else {}
        told |= {"levels": 2} if self.ahead else {}
        found = set_by(self.configurator)
        told |= {"share": search.share} if "share" in found else {}
        if self.mode == "mode1":
            return told
        told |= {"planner": type(self.actor.planner).__name__}
        told |= {k: x for k, x in search.budget().items() if k != "few" or k in found}
        told |= {"wrong": search.wrong} if "wrong" in found else {}
        if self.world.latent.dim:
            told |= {"futures": search.futures, "risk": search.risk}
        return told | {"sequences": self.costed}

    @torch.no_grad()
    def explain(self) -> Explanation:
        """The last decision."""
        if self._last is None:
            raise UserError("there is nothing to explain: the agent has not acted yet")
        setting, situation, whole = self._last
        draws = self._draws(torch.arange(len(whole)), self.time - 1)
        futures = self.mind.search.futures
        z = self.actor.drawn(situation, draws, futures or MEAN)  # those that plans are judged over
        if z is not None:
            z = z[:, :1] if futures else z.mean(1, keepdim=True)
        end = None if self.itinerary is None else self.itinerary.goals[:, -1]
        return explained(setting, situation, whole, z, self.cost, self.perception.scene, end)

    # -- files -------------------------------------------------------------------------------------

    @classmethod
    def load(
        cls,
        path: Path | str,
        env: BatchEnv | None = None,
        mode: str = "auto",
        device: torch.device | str = "cpu",
        search: Search | Mapping[str, Any] | None = None,
        weights: dict[str, float] | None = None,
        zones: Sequence[Zone] | None = None,
        memory: int | None = None,
    ) -> Agent:
        """The agent of a run of `agent fit`; of a run of `world`, one that plans without a critic.

        Args:
            path: the run's folder.
            env: that it will act in; one that does not fit is refused.
            mode: `mode1`, `mode2`, `auto` or `learned`.
            device: where it computes.
            search: how mode 2 looks, in place of the run's own; or some of its values.
            weights: of the cost's terms, in place of the run's own.
            zones: boxes to keep out of, in place of the run's own. A chart leads around them in
                each mode; with any other cost than that which the policy was distilled for, `auto`
                and `learned` plan every decision.
            memory: patches of the scene that are remembered, in place of the run's own; 0: none.

        Raises:
            UserError: no agent there, no such device, another environment, another kind of action,
                or a cost that cannot be told, or not be followed by mode 1.
        """
        if mode not in MODES:
            raise UserError(f"mode must be one of {', '.join(MODES)}, not {mode!r}")
        path = Path(path).expanduser()
        world = load_world(path)
        if env is not None:
            refuse_other(world, env, path)
            if world.felt:
                env.feel(world.felt)
        folder = path / FOLDER if (path / FOLDER).is_dir() else path
        if not (folder / WEIGHTS).exists():
            norm = getattr(env, "action_norm", None)
            goal = env is None or env.shows_goal
            own = {"goal" if goal else "reward": 1.0}
            memory = world.facts.memory if memory is None else memory
            looks = _looks(FAR, search)
            mind = Mind(reach_of(path), own, goal, search=looks, norm=norm, memory=memory)
            return cls(world, mind.asked(weights, zones, world), mode=mode, device=device)
        mind, trained = read_agent(folder, world)
        memory = mind.memory if memory is None else memory
        mind = replace(mind, search=_looks(mind.search, search), memory=memory)
        told = mind.asked(weights, zones, world)
        if told != mind and not told_by_zones(trained, mind, told):
            if mode == "mode1":
                raise UserError("mode1 acts as it learned to: another cost needs mode2 or auto")
            mode = "mode2"
        word = 1.0 if mind.ways else word_of(mind, told)
        return cls(world, told, trained, mode, device, word)


def _looks(own: Search, given: Search | Mapping[str, Any] | None) -> Search:
    """How mode 2 looks: as it would of its own, or as is asked for."""
    return given if isinstance(given, Search) else own.but(given or {})
