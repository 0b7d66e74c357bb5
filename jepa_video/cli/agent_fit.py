"""`jepa-video agent fit`: critic and policy around a world model, then an agent that acts."""

from __future__ import annotations

HELP = """\
usage: jepa-video agent fit --checkpoint RUN --data.root EPISODES [--OPTION VALUE ...]
       jepa-video agent fit --world FILE [--checkpoint ENCODER] --data.root EPISODES [...]

Corrects the dynamics of a world model on memory, then learns a critic (the intrinsic cost that is
to come) and a policy (mode 1), distilled from the best of many imagined plans. The result is an
agent: `jepa-video agent eval --checkpoint` plays it.

  --checkpoint RUN          a run of jepa-video world; or, with --world FILE, a run of pretrain or
                            another encoder (as load_encoder), to train a world model on first
  --world FILE              or settings of jepa-video world, to train one first, as runs/NAME-world;
                            the same command again goes on with it, or takes it when it is finished;
                            model.train frozen or full in FILE: whether an encoder learns too
  --data.root EPISODES      the memory that is learned from: a folder of jepa-video collect
  --learn.source S          what the policy learns from: plans, critic, data, dreams or deeds
  --learn.judge J           the critic: ways (steps to the goal), chart (the same over a map of the
                            scene, for many walls), value (any cost), or auto
  --learn.recall N          a critic of values learns from so many steps of memory, not from plans
  --learn.ahead N           steps of a dream         --learn.foretold N  steps that the dynamics
                            are corrected on at once, for dreams
  --learn.surprise S        share of what the dynamics are corrected on that surprised them
  --learn.candidates N      plans that are tried in each state
  --learn.stride K          also level 2, on a chart: where K steps lead by what is done in them,
                            for sub-goals (--search.levels 2)
  --learn.discount D        of each step: 1 / (1 - D) steps are looked ahead
  --cost '{goal: 1.0}'      terms of the intrinsic cost: goal, distance, reward, effort, zone,
                            state.NAME, a number of the environment's state from the goal's, and
                            gap.NAME.NAME, two of them from each other
  --zones '[{low: [8, 30], high: [20, 45]}]'
                            boxes of the environment's state to keep out of, for the term zone
  --search.horizon N, --search.samples N, --search.iterations N
                            how mode 2 plans; --search.planner mppi, gradient or polish for another
                            planner than cem
  --rounds.count N          afterwards it goes out so many times, to learn from what it meets
  --rounds.episodes N, --rounds.steps N
                            episodes of each round, and optimiser steps after it
  --rounds.workers N        processes that step its environments, for those of other packages
  --rounds.keep last|best   what the run holds: the agent after the last round, or after the one in
                            which mode 1 did best on the tasks that it is judged on
  --rounds.still X          the dynamics are frozen in rounds whose steps the world model foretells
                            with at most X times the energy of memory's
  --norm LENGTH             longest action; memory may hold few of the longest that can be taken
  --memory N                patches of the scene that it remembers; as its world model does if not
                            given, 0 for none
  --data.batch_size N       states on each device     --data.share S    part of the episodes
  --trainer.max_steps N     optimiser steps           --seed N          of everything
  --name NAME, --runs DIR   runs/NAME                 --wandb MODE      offline, online or off
  --config FILE             YAML with any of the options
  --resume RUN              go on with a run that was stopped or killed

  --help-all                every option              --print_config    all settings as YAML
"""


def run(words: list[str]) -> int:
    """Read the options, learn, write the agent; first its world model where there is none."""
    from .agent_world import with_world
    from .launch import launch

    words, code = with_world(words)
    return code or launch(words, "agent fit")
