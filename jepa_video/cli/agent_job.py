"""One agent job: a world model and memory, from settings to an agent that acts."""

from __future__ import annotations

import json
import math
import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from ..agent.actor import Search, planner_of
from ..agent.bank import BankData
from ..agent.changed import NOTED
from ..agent.chart import Chart
from ..agent.configurator import doubts
from ..agent.cost import CURIOSITY, IntrinsicCost, refuse_cost
from ..agent.crashes import Crashes
from ..agent.encoding import encoded
from ..agent.frozen import DYNAMICS, frozen_parts, strangeness
from ..agent.learner import AgentLearner
from ..agent.mind import FOLDER, Mind, save_agent
from ..agent.origin import note_origin, refuse_origin
from ..agent.refused import refuse_steps
from ..agent.rounds import Field, Rounds, Row, Table, bring_back, round_words
from ..agent.scene import completion, scene_words
from ..agent.task import Zone
from ..agent.world_files import CONFIG as WORLD_CONFIG
from ..agent.world_files import FOLDER as WORLD
from ..agent.world_files import load_world, repeat_of, save_world, world_folder
from ..data.episodes import EpisodeSet, Facts
from ..distributed import wait_for
from ..envs.registry import env_words, make_batch
from ..errors import UserError
from ..evaluation.attempt import attempt
from ..evaluation.report import write_report
from ..interop.files import read_json
from ..randomness import LATENT, generator
from ..training.checkpoints import newest_checkpoint
from ..training.foresight import step_length
from ..training.pretrain import Parts, millions, prepare
from ..training.run import Run, checkpoints_of, write_whole
from ..training.stops import StopRequests
from .agent_words import ONE_NETWORK, chart_words, collapse_words, ending_words, idle_words
from .bar import Bar
from .options import add_room_options, parse, run_parser
from .training_job import TrainingJob, main_process

STEPS = 7000
ROUNDS, EPISODES, GATHERED, TABLE = "rounds", "episodes", "gathered.json", "rounds.csv"
WORD = "frozen.json"  # the configurator's, on what stands still in a round
LONG = ("max_steps", "max_epochs")  # how long it learns from memory
CRASHES = "crashes.jsonl"  # of the environment, while an agent was judged
WORTH = 0.8  # quantile of what plans are worth in memory above which mode learned plans
DOUBT = 0.7  # quantile of the critic's disagreement in memory above which auto mode plans


def build_parser(words: Sequence[str] = ()) -> ArgumentParser:
    """Every option of `agent fit`."""
    parser = run_parser("agent fit")
    parser.add_argument(
        "--checkpoint", type=str | None, help="a run of jepa-video world, or an encoder"
    )
    parser.add_argument("--world", type=str | None, help="settings to train a world model by")
    parser.add_argument("--cost", type=dict[str, float] | None, help="terms and their weights")
    parser.add_argument("--zones", type=list[Zone], default=[], help="boxes to keep out of")
    parser.add_argument("--norm", type=float | None, help="longest action; the env's if None")
    parser.add_argument("--memory", type=int | None, help="patches; as the world model if None")
    skip = {"world", "intrinsic", "weights", "goal", "norm", "zones"}
    parser.add_class_arguments(AgentLearner, "learn", skip=skip, instantiate=False)
    parser.add_class_arguments(Search, "search")
    parser.add_class_arguments(Rounds, "rounds")
    add_room_options(parser, BankData, "learn", "checkpoints")  # --checkpoint is the world
    parser.set_defaults({"trainer.max_steps": STEPS, "trainer.gradient_clip_val": 5.0})
    return parser


class AgentJob(TrainingJob):
    """A run of `agent fit`; arguments and errors are those of every training."""

    verb = "agent fit"
    data: BankData

    def build(self) -> None:
        """World model, memory, and what learns."""
        if self.config.checkpoint is None:
            raise UserError(
                "agent fit needs --checkpoint RUN, a run of jepa-video world, or --world FILE, "
                "settings to train one by"
            )
        refuse_steps(self.trainer_options["max_steps"], self.made.learn.correct)
        self.world = load_world(self.config.checkpoint)
        facts = self.world.facts
        memory = facts.memory if self.config.memory is None else self.config.memory
        episodes = self.episodes = self.data.open(self.world.encoder.image, completion(memory))
        self._of_one_kind(episodes.facts)
        # It plays where its memory is from: rounds go there, and the line on screen names that.
        self.place = episodes.facts if episodes.facts.env else facts
        mind = self._asked(memory)
        noted = NOTED if self.made.learn.judge == "chart" else 0
        encoded(self.world.to(self.device), episodes, self.data.bank, self.device, noted=noted)
        reach = step_length(map(self.world.state.moving, self.data.bank.states))
        if reach is None:
            raise UserError(
                f"to {self.config.checkpoint} all of {self.data.root} looks the same: its states "
                "stand still"
            )
        self.data.bank.stride = mind.stride
        intrinsic = IntrinsicCost(reach, self.world.state.aim, self.world.read, facts.state_names)
        settings = dict(vars(self.made.learn))
        self.module = AgentLearner(
            self.world, intrinsic, mind.weights, mind.goal, mind.norm, mind.zones, **settings
        )
        chart = self.made.learn.finer if isinstance(self.module.critic, Chart) else 0
        self.mind = replace(mind, reach=reach, ways=self.module.ways, chart=chart)
        self.module.to(self.device).measure(self.data.bank)
        self.remembered = len(self.data.bank)
        self.field: Field | None = None
        if self.made.rounds.count:
            self.field = Field(
                self.place.env, self.place.settings, self.made.rounds, self.config.seed
            )

    def _asked(self, memory: int) -> Mind:
        """The agent as it is asked for; its reach is told by memory.

        Raises:
            UserError: settings that do not go together.
        """
        facts, learn, search = self.world.facts, self.made.learn, self.made.search
        goal, norm = of_environment(self.place.env, self.place.settings)
        norm = self._norm(norm)
        planner_of(search, facts.action_size, facts.discrete, norm)  # says what is wrong
        zones = tuple(self.made.zones)
        weights = cost_of(self.made, goal, facts.state_size, facts.state_names)
        return Mind(
            1.0, weights, goal, learn.discount, search, hidden=learn.hidden,
            members=learn.members, zones=zones, norm=norm, memory=memory, stride=learn.stride,
            recall=learn.recall,
        )  # fmt: skip

    def _of_one_kind(self, memory: Facts) -> None:
        """Say it where memory is not of what the world model was trained on."""
        root, checkpoint, facts = self.data.root, self.config.checkpoint, self.world.facts
        if None not in (memory.env, facts.env) and memory.env != facts.env:
            raise UserError(
                f"{root} has episodes of {memory.env} and {checkpoint} was trained on {facts.env}"
            )
        paces = repeat_of(memory), repeat_of(facts)
        if None not in paces and paces[0] != paces[1]:
            raise UserError(
                f"{root} has steps of repeat {paces[0]} and {checkpoint} was trained on those of "
                f"repeat {paces[1]}"
            )
        if (memory.action_size, memory.discrete) != (facts.action_size, facts.discrete):
            kinds = ("numbers", "kinds")
            raise UserError(
                f"{root} has actions of {memory.action_size} {kinds[memory.discrete]} and "
                f"{checkpoint} takes {facts.action_size} {kinds[facts.discrete]}"
            )
        if self.world.felt and memory.state_names != facts.state_names:
            told = [
                ", ".join(names) or "nothing" for names in (memory.state_names, facts.state_names)
            ]
            raise UserError(
                f"{root} tells {told[0]} of a state and {checkpoint} feels some of {told[1]}"
            )

    def _norm(self, known: float | None) -> float | None:
        """The longest action that is planned with: shorter than the environment's where asked for.

        Memory may hold few of the longest steps, and a world model is not to be trusted there.
        """
        asked = self.config.norm
        if asked is not None and not 0 < asked <= (known or asked):
            raise UserError(f"norm must be above 0 and at most {known}, not {asked}")
        return known if asked is None else float(asked)

    def refuse(self, run: Run) -> None:
        """A saved agent is of one world model and one memory.

        Rounds would begin where they had, and all that it learned anew before would be lost; and
        those that have begun would hold episodes of two agents.
        """
        refuse_origin(run.path, self.config.checkpoint, self.episodes)
        first = run.path / ROUNDS / "1"
        if not (first / EPISODES).exists():
            return
        told = parse(self.parser, ["--config", str(run.config)]).trainer
        if (first / GATHERED).exists():
            told.max_steps = read_json(first / GATHERED).get("after", told.max_steps)
        for name in LONG:
            before, asked = told[name], self.trainer_options[name]
            if before != asked:
                epochs = told.max_steps < 0
                long = f"{told.max_epochs} epochs" if epochs else f"{told.max_steps} steps"
                raise UserError(
                    f"{run.path} went out after {long} on memory: trainer.{name} stays "
                    f"{json.dumps(before)}, not {asked}; more steps are another run"
                )

    def stages(
        self, run: Run, resume_from: Path | None, stops: StopRequests
    ) -> Iterator[tuple[Parts, Path | None]]:
        """On memory, and after each round on what came in."""
        if main_process() and not checkpoints_of(run):
            note_origin(run.path, self.config.checkpoint, self.episodes)
        yield self._parts(run, stops, self.trainer_options), resume_from
        if self.field is None:
            return
        # Epochs are of memory alone.
        options = self.trainer_options | {"max_steps": self.made.rounds.steps, "max_epochs": -1}
        for number in range(1, self.made.rounds.count + 1):
            place = Run(run.path / ROUNDS / str(number))
            place.checkpoints.mkdir(parents=True, exist_ok=True)
            frozen = self._gathered(self.field, run, place, number)
            self.module.again(self.made.rounds.learning_rate, frozen)
            newest = newest_checkpoint(place) if checkpoints_of(place) else None
            yield self._parts(place, stops, options), newest

    def _parts(self, run: Run, stops: StopRequests, options: dict[str, Any]) -> Parts:
        return prepare(
            run,
            self.module,
            self.data,
            options,
            lambda held_out: [],
            stops=stops,
            loggers=self.loggers(run),
            checkpoint=self.made.checkpoints,
            watch=self.made.watch,
            screen=self.screen,
            seed=self.config.seed,
        )

    def _gathered(self, field: Field, run: Run, place: Run, number: int) -> frozenset[str]:
        """Let the agent go out, as rank 0, and put what it met into the bank.

        Returns:
            The parts that stand still in this round, by rank 0's word.
        """
        told = place.path / GATHERED
        self._steer()
        if main_process() and not told.exists():
            self._write(place.path)
            self._judge(field, run, place.path, number - 1)
            with Bar(self.screen, f"round {number}", "episodes") as bar:
                found = field.gather(
                    place.path, number, place.path / EPISODES, str(self.device),
                    lambda done, total, frames: bar(done, total, {"frames": frames}),
                )  # fmt: skip
            solved = list(found.success.values())  # none where returns are told alone
            facts = {
                "solved": solved[0] if solved else 0.0,
                "crashes": len(found.crashes),
                "frames": found.frames,
            }
            facts["after"] = self.trainer_options["max_steps"]  # steps on memory
            write_whole(told, json.dumps(facts) + "\n")
        wait_for(told, self.parent)  # rank 0 is out
        size, memory = self.world.encoder.image, completion(self.mind.memory)
        episodes = EpisodeSet(place.path / EPISODES, None, size, completion=memory)
        bank, word = self.data.bank, place.path / WORD
        before = len(bank)
        encoded(self.world, episodes, bank, self.device, field.planned)
        if main_process() and not word.exists():
            draw = generator(self.config.seed, LATENT, number)
            strange = strangeness(self.world, bank, before, self.device, draw)
            frozen = sorted(frozen_parts(strange, field.rounds.still))
            write_whole(word, json.dumps({"strange": strange, "frozen": frozen}) + "\n")
        wait_for(word, self.parent)
        return frozenset(read_json(word)["frozen"])

    def _judge(self, field: Field, run: Run, agent: Path, number: int) -> None:
        """A row for the agent after a round, with what the round was like."""
        table, gathered = Table(run.path / TABLE), {"solved": 0.0, "crashes": 0, "frames": 0}
        word: dict[str, Any] = {"strange": math.nan, "frozen": []}
        if number:
            place = run.path / ROUNDS / str(number)
            gathered, word = read_json(place / GATHERED), read_json(place / WORD)
        count = self.made.rounds.episodes if number else 0
        before = table.rows[number - 1].env_steps if number else 0
        steps = before + int(gathered["frames"]) - count
        crashes = Crashes()
        crashes.keep(agent / CRASHES, round=number)
        judged = field.judged(agent, str(self.device), crashes)
        failed = int(gathered["crashes"]) + len(crashes.told)
        corrected = int(DYNAMICS not in word["frozen"])
        row = Row(
            number, steps, count, gathered["solved"], failed, **judged, strange=word["strange"],
            corrected=corrected,
        )  # fmt: skip
        table.put(row)
        self.screen.print(round_words(row, field.goal), markup=False)

    def start_lines(self, parts: Parts) -> list[str]:
        """What is learned from what."""
        module, bank = self.module, self.data.bank
        sizes = [millions(part.parameters()) for part in (module.critic, module.policy)]
        cost = ", ".join(f"{weight:g} {name}" for name, weight in self.mind.weights.items())
        ways = " of ways" if self.mind.ways else ""
        alone = [] if doubts(module.critic) else [ONE_NETWORK]
        return [
            *alone,
            *collapse_words(Path(self.config.checkpoint)),
            *scene_words(self.mind.memory),
            *ending_words(module, bank),
            f"run       {parts.run.path}",
            f"memory    {len(bank.states)} episodes, {len(bank)} steps ({self.data.root})",
            *self.data.unreadable.words(),
            f"critic    {sizes[0]}{ways}; policy {sizes[1]}, from {module.source}; cost: {cost}",
            *idle_words(module, parts.trainer.max_steps),
            *chart_words(module),
            f"training  {parts.trainer.max_steps} steps of {self.data.batch_size} states",
        ]

    def facts(self, parts: Parts) -> dict[str, Any]:
        """What the training knows about itself."""
        (pairs, wait), critic = parts.health.total(), self.module.critic
        return {
            "kind": "agent",
            "steps": parts.trainer.global_step,
            "seed": self.config.seed,
            "env": self.place.env,
            "settings": self.place.settings,
            "states_per_second": pairs,
            "data_wait": wait,
            "episodes": len(self.data.bank.states),
            "reach": self.mind.reach,
            "cost": self.mind.weights,
        } | ({"places": critic.placed} if isinstance(critic, Chart) else {})

    def _steer(self) -> None:
        """Tell a chart of all that is in the bank where actions lead.

        What is learned next rests on it: each rank and each start of a run does it, also one that
        finds the agent written.
        """
        module = self.module
        if isinstance(module.critic, Chart):
            batch = {k: part.to(module.device) for k, part in self.data.bank.spread().items()}
            module.critic.steer(*(batch[name] for name in ("state", "action", "next")))

    def _write(self, path: Path) -> float:
        """Write the agent as it is with its world model; the doubt above which it plans."""
        module, bank = self.module, self.data.bank
        doubt = module.doubt_of(bank, DOUBT)
        mind = replace(self.mind, doubt=doubt, worth=module.worth_where(bank, WORTH))
        save_agent(mind, module.trained(), path / FOLDER)
        settings = read_json(world_folder(self.config.checkpoint) / WORLD_CONFIG)["model"]
        save_world(self.world, settings, path / WORLD)
        return doubt

    def conclude(self, run: Run, stages: Sequence[Parts], started: float) -> None:
        """Write the agent with its world model, and say how to play it."""
        parts, *rounds = stages
        self._steer()
        doubt = self._write(run.path)
        told: dict[str, Any] = {}
        if self.field is not None:
            self._judge(self.field, run, run.path, len(rounds))
            table = Table(run.path / TABLE)
            told["rounds"], told["memory_steps"] = table.told(), self.remembered
            told["kept"] = kept = self.field.kept(table.rows)
            if kept < len(rounds):  # a round begins with the agent of the one before
                bring_back(run.path / ROUNDS / str(kept + 1), run.path)
                doubt = read_json(run.path / FOLDER / "config.json")["doubt"]
            self.screen.print(f"kept      the agent after round {kept}", markup=False)
        run.update_summary(**self.facts(parts), **told, doubt=doubt, status="finished")
        attempt("the report", lambda: write_report(run.path))
        minutes = (time.monotonic() - started) / 60
        screen = self.screen
        screen.print(f"\n{parts.trainer.global_step} steps in {minutes:.1f} min")
        screen.print(f"report    {run.report}\nagent     {run.path / FOLDER}\n")
        path = shlex.quote(str(run.path))
        env = env_words(self.place.env, self.place.settings)
        line = f"  jepa-video agent eval {env} --policy mode1,mode2 --checkpoint {path}\n"
        screen.print(line, markup=False, soft_wrap=True)  # it can be copied
        screen.print("  from jepa_video import Agent", markup=False)
        screen.print(f'  agent = Agent.load("{run.path}")', markup=False)


def cost_of(made: Any, goal: bool, state_size: int, names: Sequence[str]) -> dict[str, float]:
    """The weights of the cost's terms, as they are asked for or usual.

    Args:
        made: the options.
        goal: whether there are goals.
        state_size: numbers of the environment's state.
        names: theirs.

    Raises:
        UserError: a cost, or two levels, that nothing can be learned by.
    """
    weights = {"goal" if goal else "reward": 1.0} if made.cost is None else dict(made.cost)
    if weights.get(CURIOSITY):
        raise UserError(
            "the cost curiosity is of what an episode has taught, and agent fit learns from "
            "all of them: give it with agent eval --cost"
        )
    if made.search.levels > 1 and not made.learn.stride:
        raise UserError("search.levels 2 needs a level 2, which learn.stride 1 or more trains")
    refuse_cost(weights, tuple(made.zones), goal, state_size, names)
    return weights


def of_environment(id: str | None, settings: dict[str, Any]) -> tuple[bool, float | None]:
    """Whether an environment shows goals, and its longest action."""
    if id is None:
        return True, None
    env = make_batch(id, 1, **settings)
    try:
        return env.shows_goal, env.action_norm
    finally:
        env.close()
