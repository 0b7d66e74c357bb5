"""What an agent learns in imagination: a critic of future cost, and a policy distilled from plans.

    V(s, g) = min over plans of m steps of  sum_k d^(k-1) c(s_k, g) + d^m V'(s_m, g)
              and never more than what memory took from s to g
    policy: towards the best of these plans' first actions, or down the critic's slope through the
    world model, for a step or as many as are dreamt, or towards what the data did, or towards the
    best that memory's own actions came to (`deeds.py`, and V with it)

Where the goal alone counts, V is that of a critic of ways (`reach.py`), which learns from memory's
own steps; the policy begins half-way through, when there is something to go by.

The states are those of memory. First the dynamics are corrected by their own prediction error on
memory's transitions, which costs little since all states are encoded once; from then on the world
model stands still, and what follows an action is imagined, so that no environment is needed. V' is
a slow average of V (a target network).

Shapes: pairs `B P D`, candidates `B S A`, states of candidates `N P D` with N = B S.
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from ..distributed import rank
from ..errors import within
from ..randomness import LATENT, generator
from ..training.passages import Passage
from ..training.schedules import staged
from ..training.second_level import untouched
from ..training.target import ema_update, frozen_copy, still
from ..training.world_model import WorldModel
from .bank import Bank
from .changed import Changes
from .chart import Chart
from .cost import Critic, IntrinsicCost
from .deeds import Deeds, deeds_of
from .frozen import DYNAMICS
from .imagined import Imagined
from .mind import Mind, Trained, critic_of, level2_of, policy_of, worth_of
from .planners.base import Limits
from .policy import Reaction
from .reach import Ways
from .recall import ROWS, reached, recalled, surprises, surprising
from .refused import Judge, Source, goal_alone, refuse_kinds, refuse_numbers
from .task import Task, Zone
from .trails import BESIDE

ALONE = 0.5  # share of its stage in which a critic of ways learns alone


class AgentLearner(Imagined, L.LightningModule):
    """Critic and policy of an agent.

    Args:
        world: whose dynamics are corrected; the rest of it is frozen.
        intrinsic: the cost that is foretold.
        weights: of its terms while it learns.
        goal: whether there are goals.
        norm: longest action; None where each number has its own limits alone.
        zones: boxes to keep out of, for the term `zone`.
        judge: the critic: `ways` (steps to the goal, from memory's own steps), `chart` (the same
            over the cells of the scene's map: for scenes with many walls), `value` (any cost, by
            what is imagined), or `auto`: ways where the goal alone counts.
        source: what the policy learns from: `plans` (the best candidate), `critic` (the slope of
            cost and critic through the world model), `data` (actions of memory, by relabelling:
            the goal is where they led, a step later or some; Ghosh et al. 2021, GCSL), or `dreams`:
            the slope of what it comes to by its own actions for `ahead` steps, which is what a
            critic of values learns too, see `dreams.py`; or `deeds`: what memory's own actions
            came to, by a critic of states and actions, see `deeds.py`.
        correct: share of all steps, at the beginning, in which the dynamics are corrected.
        foretold: steps that they then foretell, each from what was foretold before it: for dreams.
        surprise: share of what they are corrected on, before any round, that is drawn by how wrong
            the world model is there (Schaul et al. 2016): what is rare, as a gate that opens.
        recall: steps of memory that a critic of values looks ahead, see `recall.py`; 0 for plans.
        hope: expectile of what came that it learns then; above one half, from what went well.
        planned: states of a batch that plans are tried in, once the dynamics stand still.
        candidates: actions that are tried in each of them.
        holds: for how many steps each is held; a plan of several steps carries costs further.
        hidden: width of critic and policy.
        members: networks of the critic, or charts; with one alone mode auto has no doubt and
            always plans. The landmarks of `ways` have their own groups.
        finer: cells of a chart along a token of the map.
        futures: draws of z that a plan's cost is the mean of, where the world has a latent.
        stride: steps of level 1 in one of level 2, on a chart; 0 for no level 2.
        ahead: steps of a dream; of 12 a policy learned to go where the world model errs.
        trace: how far a dream's own costs count before the critic's word does, 0 to 1.
        open: what a nat of the policy's entropy is worth in dreams, in cost of a step.
        discount: of each step.
        momentum: of the target network.
        learning_rate: peak.
        warmup: share of all steps in which the learning rate rises.
        weight_decay: on all weights.
        seed: of the candidates.
    """

    def __init__(
        self,
        world: WorldModel,
        intrinsic: IntrinsicCost,
        weights: dict[str, float],
        goal: bool,
        norm: float | None = None,
        zones: tuple[Zone, ...] = (),
        judge: Judge = "auto",
        source: Source = "plans",
        correct: float = 0.4,
        foretold: int = 1,
        surprise: float = 0.0,
        recall: int = 0,
        hope: float = 0.85,
        planned: int = 128,
        candidates: int = 12,
        holds: tuple[int, ...] = (1, 3),
        hidden: int = 256,
        members: int = 2,
        finer: int = 1,
        futures: int = 4,
        stride: int = 0,
        ahead: int = 4,
        trace: float = 0.95,
        open: float = 3e-4,
        discount: float = 0.97,
        momentum: float = 0.99,
        learning_rate: float = 1e-3,
        warmup: float = 0.02,
        weight_decay: float = 1e-4,
        seed: int = 0,
    ) -> None:
        super().__init__()
        refuse_numbers(correct, planned, candidates, members, holds, discount)
        within("learn", 0, learning_rate=learning_rate, weight_decay=weight_decay)
        shares = {"momentum": momentum, "warmup": warmup, "surprise": surprise, "hope": hope}
        within("learn", 0, 1, **shares, trace=trace)
        within("learn", 0, recall=recall, open=open)
        within("learn", 1, hidden=hidden, finer=finer, futures=futures)
        within("learn", 1, ahead=ahead, foretold=foretold)
        facts = world.facts
        self._world = [world]  # not a submodule: it is not trained, saved or moved with this
        self.dynamics = world.dynamics.requires_grad_(True)  # trained and saved with this
        self.correct, self.planned = correct, planned
        self.intrinsic, self.weights, self.goal = intrinsic, dict(weights), goal
        self.zones, self.source, self.seed, self.draws = zones, source, seed, 0
        self.limits = None if facts.discrete else Limits(facts.action_size, norm=norm)
        self.candidates, self.holds, self.discount = candidates, sorted(holds), discount
        self.futures = futures if world.latent.dim else 1
        self.ways = refuse_kinds(
            judge, source, goal_alone(weights, goal), facts.discrete, recall, stride, foretold,
            surprise,
        )  # fmt: skip
        self.surprise, self.recall, self.hope = surprise, recall, hope
        self.foretold, self.ahead, self.trace, self.open = foretold, ahead, trace, open
        mind = Mind(
            intrinsic.reach, self.weights, goal, discount, hidden=hidden, members=members,
            ways=self.ways, chart=finer if judge == "chart" else 0, stride=stride, recall=recall,
        )  # fmt: skip
        self.critic = critic_of(mind, world)
        self.level2 = level2_of(mind, world, self.critic)
        # A critic of ways learns from no word of its own: nothing has to stand still for it.
        self.target = None if self.ways else cast(Critic, frozen_copy(self.critic))
        self.policy = policy_of(hidden, goal, world, self.critic)
        self.worth = worth_of(hidden, goal, world)
        self.deeds = deeds_of(world, goal, hidden, members, discount) if source == "deeds" else None
        self.momentum, self.learning_rate, self.warmup = momentum, learning_rate, warmup
        self.weight_decay, self.fresh = weight_decay, True  # until it has been through its stages
        self.frozen: frozenset[str] = frozenset()

    @property
    def world(self) -> WorldModel:
        """The world model."""
        return self._world[0]

    def scale_to(self, mean: Tensor, std: Tensor) -> None:
        """The scale of the states, `P*D` each, for critic and policy."""
        for part in (self.critic, self.target, self.policy, self.worth, *self.judges()):
            if part is None or isinstance(part, Ways):  # states as they are
                continue
            part.mean[: len(mean)].copy_(mean)  # actions, where there are any, are what they are
            part.std[: len(std)].copy_(std)

    def judges(self) -> tuple[Critic, ...]:
        """Critics of what is done, where there are any."""
        return self.deeds.judges() if self.deeds is not None else ()

    def measure(self, bank: Bank) -> None:
        """Take the scales from memory, and ask it for what this learner needs beside pairs."""
        self.scale_to(*bank.moments())
        bank.onward = self.recall or (self.foretold if self.foretold > 1 else 0)
        if self.target is not None and (self.recall or self.deeds is not None):
            batch = {name: part.to(self.device) for name, part in bank.spread().items()}
            cost = self.felt(batch["next"], batch["action"], batch["goal"])
            for part in (cast(Critic, self.critic), self.target, *self.judges()):
                part.first.copy_(cost.mean() / (1 - self.discount))
                part.unit.copy_(cost.abs().mean().clamp_min(1e-3) / (1 - self.discount))
        if self.surprise:
            draw = generator(self.seed, LATENT)
            bank.weigh(surprises(self.world, bank.transitions(ROWS), self.device, draw))
        if self.level2 is not None:
            gone = (part.to(self.device) for part in bank.gone(self.world.state.aim))
            self.level2.measure(*gone)
        if isinstance(self.critic, Chart):
            batch = {name: part.to(self.device) for name, part in bank.spread().items()}
            aim = self.world.state.aim
            seen = bank.seen(aim)
            seen = seen and Changes(*(part.to(self.device) for part in seen))
            self.critic.survey(batch, bank.strayed(aim).to(self.device), seen)
            self.critic.steer(*(batch[name] for name in ("state", "action", "next")))
            bank.spots = cast(nn.Linear, frozen_copy(self.critic.where)).cpu()
            bank.beside = BESIDE * self.critic.size[0] / self.critic.tokens[0]

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Foresee the best of some plans, learn its cost, and to act as it does."""
        self.draws += 1
        draw = generator(self.seed, LATENT, rank(), self.draws)
        if self.global_step < self.first_stage():
            return self.corrected(batch, draw)
        if self.ways or self.recall:
            return self.led(batch, draw)
        if self.deeds is not None:
            return self.by_deeds(batch, self.deeds, draw)
        batch = {name: part[: self.planned] for name, part in batch.items()}
        if self.source == "dreams":
            return self.dreamed(batch, draw)
        acted, saved, costs = self.distilled(batch, draw)
        cost = torch.minimum(costs.amin(1), self.lived(batch["ahead"]))
        told = self.critic.each(batch["state"], batch["goal"] if self.goal else None)  # M B
        error = (told - cost).square().mean()
        loss = error + acted + saved
        facts = {"critic": error.detach(), "policy": acted.detach(), "worth": saved.detach()}
        facts["cost"] = cost.mean()
        if len(told) > 1:
            facts["doubt"] = told.detach().std(0).mean()
        self.log_dict({"loss": loss.detach(), **facts})
        return {"loss": loss + self._idle(self.dynamics)}

    def dreamed(self, batch: dict[str, Tensor], draw: torch.Generator) -> dict[str, Tensor]:
        """What the policy comes to by its own actions: to be made less, and to be foretold."""
        goal = batch["goal"] if self.goal else None
        dream, left = self.dream(batch["state"], goal, self.policy, draw)
        aim = None if goal is None else goal.repeat_interleave(self.ahead, 0)
        told = self.critic.each(dream.before.detach().flatten(0, 1), aim)  # M BH
        error = (told - left.detach().flatten()).square().mean()
        acted = (1 - self.discount) * left.mean() + self.open * dream.odds.mean()
        shown, saved, _ = self.distilled(batch, draw)
        loss = error + acted + shown + saved
        facts = {"critic": error, "policy": acted, "worth": saved, "cost": left.mean()}
        facts |= {"doubt": told.std(0).mean()} if len(told) > 1 else {}
        self.log_dict({name: part.detach() for name, part in {"loss": loss, **facts}.items()})
        return {"loss": loss + self._idle(self.dynamics)}

    def by_deeds(
        self, batch: dict[str, Tensor], deeds: Deeds, draw: torch.Generator
    ) -> dict[str, Tensor]:
        """What memory's own actions came to, and a policy of the best of them."""
        goal, limits = batch["goal"] if self.goal else None, self.limits
        assert limits is not None and isinstance(self.critic, Critic)
        others = {**self.weights, "reward": 0.0}  # which memory knows: it need not be read
        cost = self.intrinsic(batch["next"], batch["action"], Task(goal, others, self.zones))
        cost = cost - self.weights.get("reward", 0.0) * batch["reward"]
        given = batch if self.goal else {n: part for n, part in batch.items() if n != "goal"}
        loss, facts = deeds.learn(given, cost, self.policy, self.critic, limits.clip_inwards, draw)
        few = {name: part[: self.planned] for name, part in batch.items()}
        shown, facts["worth"], _ = self.distilled(few, draw)
        loss = loss + shown + facts["worth"]
        self.log_dict({name: part.detach() for name, part in {"loss": loss, **facts}.items()})
        return {"loss": loss + self._idle(self.dynamics)}

    def taught(self, batch: dict[str, Tensor], share: float) -> Tensor:
        """The loss of a critic that learns from memory's own steps; `share` of it is over."""
        if isinstance(self.critic, Ways):
            return self.critic.learn(batch, share)
        assert self.target is not None
        most, judged = self.lived(batch["ahead"]), (self.felt, self.discount, self.hope)
        return recalled(self.critic, self.target, batch, *judged, most)

    def led(self, batch: dict[str, Tensor], draw: torch.Generator) -> dict[str, Tensor]:
        """What memory's own steps tell; from half-way on, also the best of some plans by that."""
        first = self.first_stage()
        share = (self.global_step - first) / max(self.total_steps() - first, 1)
        share = share if self.fresh else 1.0
        loss = self.taught(batch, share)
        facts = {"critic": loss.detach()}
        if self.level2 is not None:
            more, facts["level2"] = self.level2.loss(batch)
            loss = loss + more
        if share < ALONE:
            loss = loss + self._idle(self.policy) + self._idle(self.worth)
        else:
            batch = {name: part[: self.planned] for name, part in batch.items()}
            acted, saved, _ = self.distilled(batch, draw)
            loss = loss + acted + saved
            facts |= {"policy": acted.detach(), "worth": saved.detach()}
        self.log_dict({"loss": loss.detach(), **facts})
        return {"loss": loss + self._idle(self.dynamics)}

    def distilled(
        self, batch: dict[str, Tensor], draw: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The policy's loss, to act as the best of some plans does, that of their worth; and costs.

        The costs are those of the plans, `B S`, without a gradient.
        """
        state, goal = batch["state"], batch["goal"] if self.goal else None
        reaction = self.policy.on(state, goal)
        with torch.no_grad():
            actions = self.proposals(state, reaction, batch["action"], draw)  # B S A
            costs = self.outcome(state, goal, actions, draw)
        acted = self.imitated(batch, reaction, actions, costs.argmin(1), draw)
        return acted, self.worth.loss(state, goal, costs), costs

    def corrected(self, batch: dict[str, Tensor], draw: torch.Generator) -> dict[str, Tensor]:
        """The energy of memory's own transitions."""
        world = self.world
        if self.foretold > 1:
            done, after = (batch[name][:, : self.foretold] for name in ("did", "way"))
            time = torch.arange(self.foretold, device=done.device)
            known, there = batch["state"][:, None], time < batch["there"][:, None]  # B H
        else:
            known, done, after = (part[:, None] for part in surprising(batch, self.surprise))
            there = torch.ones(done.shape[:2], dtype=torch.bool, device=done.device)
        passage = Passage(known, done[:, :0], done, after)
        z = world.stray(world.explain(passage, draw), draw) if world.latent.dim else None
        told = world.imagine(known, passage.actions, z)
        each = world.energy(told.flatten(0, 1)[:, None], after.flatten(0, 1)[:, None])
        energy = world.prediction * (each * there.flatten()).mean()
        self.log_dict({"loss": energy.detach(), "energy": energy.detach()})
        return {"loss": energy + sum(map(self._idle, self._mine()))}

    def _mine(self) -> list[nn.Module]:
        """What learns beside the dynamics."""
        return [*self.trained().named().values(), *([] if self.deeds is None else [self.deeds])]

    def _idle(self, part: nn.Module) -> Tensor | float:
        """0, from weights that take no part in this step: several ranks wait for them."""
        return untouched(part.parameters()).get("idle", 0.0)

    def first_stage(self) -> int:
        """Optimiser steps in which the dynamics are corrected."""
        return 0 if DYNAMICS in self.frozen else round(self.correct * self.total_steps())

    def total_steps(self) -> int:
        """Optimiser steps of the whole training."""
        return int(self.trainer.estimated_stepping_batches)

    def imitated(
        self,
        batch: dict[str, Tensor],
        reaction: Reaction,
        actions: Tensor,
        best: Tensor,
        draw: torch.Generator,
    ) -> Tensor:
        """The policy's loss by its source."""
        state, shown = batch["state"], self.shown(batch)
        if self.source in ("dreams", "deeds"):  # which it learns from by themselves
            return shown + 0 * reaction.told.sum()
        if self.source == "critic":
            assert self.limits is not None
            tried, goal = reaction.sample(1, draw), batch["goal"] if self.goal else None
            with still(self.critic, self.dynamics):  # they say where to, and do not come nearer
                cost = self.outcome(state, goal, self.limits.clip_inwards(tried), draw)
            return shown + cost.mean()
        if self.source == "data":
            aim = reached(batch) if self.goal else None
            return shown - self.policy.on(state, aim).log_likelihood(batch["action"]).mean()
        chosen = actions[torch.arange(len(best), device=best.device), best]
        return shown - reaction.log_likelihood(chosen).mean()

    def shown(self, batch: dict[str, Tensor]) -> Tensor | float:
        """The policy's loss on steps that were planned in the environment; 0 where none were."""
        if "shown_state" not in batch:
            return 0.0
        parts = (batch[f"shown_{name}"] for name in ("state", "goal", "action"))
        state, goal, action = parts
        told = self.policy.on(state, goal if self.goal else None)
        return -told.log_likelihood(action).mean()

    def again(self, learning_rate: float, frozen: frozenset[str]) -> None:
        """From here on another training of the same parts, on memory that has grown.

        Args:
            learning_rate: peak.
            frozen: parts that stand still, see `frozen.py`.
        """
        self.fresh, self.learning_rate, self.frozen = False, learning_rate, frozen

    def trained(self) -> Trained:
        """What is kept of it."""
        return Trained(self.critic, self.policy, self.level2, self.worth)

    def _spread(self, bank: Bank, count: int = 4096) -> tuple[Tensor, Tensor | None]:
        batch = bank.spread(count)
        return batch["state"].to(self.device), batch["goal"].to(self.device) if self.goal else None

    @torch.no_grad()
    def worth_where(self, bank: Bank, quantile: float) -> float:
        """The quantile of what a plan is worth over states and goals of memory."""
        return float(self.worth(*self._spread(bank)).quantile(quantile))

    @torch.no_grad()
    def doubt_of(self, bank: Bank, quantile: float, count: int = 4096) -> float:
        """The quantile of the critic's disagreement over states and goals of memory."""
        told = self.critic.each(*self._spread(bank, count))
        return float(told.std(0).quantile(quantile)) if len(told) > 1 else 0.0

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW; each stage has its own warm-up and cosine, to a tenth."""
        mine = [w for part in self._mine() for w in part.parameters() if w.requires_grad]
        groups = [{"params": list(self.dynamics.parameters())}, {"params": mine}]
        optimizer = torch.optim.AdamW(groups, self.learning_rate, weight_decay=self.weight_decay)
        total, first = self.total_steps(), self.first_stage()
        rates: list[Any] = [
            partial(staged, begin, end, self.warmup) for begin, end in ((0, first), (first, total))
        ]
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rates)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step", "name": "lr"},
        }

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The target network moves inside the step, so that no checkpoint comes between."""
        learns = self.global_step >= self.first_stage()
        super().optimizer_step(*args, **kwargs)
        if learns and self.target is not None:
            ema_update(self.target, self.critic, self.momentum)
        if learns and self.deeds is not None:
            ema_update(self.deeds.slow, self.deeds.quick, self.momentum)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The counter of the draws."""
        checkpoint["agent_learner"] = {"draws": self.draws}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the counter."""
        self.draws = checkpoint["agent_learner"]["draws"]
