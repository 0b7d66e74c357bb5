"""Settings of a search that an agent does not look at: who gives them waits for nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Final

from .actor import Search
from .agent import Agent
from .chart import Chart
from .configurator import set_by

REACTS: Final = {"tried", "stopped", "forget", "levels", "far"}  # all that mode 1 minds
OTHERS: Final = {  # what is of other planners
    "cem": {"temperature", "starts", "steps", "step_size"},
    "mppi": {"decay", "starts", "steps", "step_size"},
    "gradient": {"samples", "iterations", "elites", "decay", "temperature", "colour"},
    "polish": {"temperature"},
}


def unread(agent: Agent) -> set[str]:
    """The names of settings that change nothing of what an agent does."""
    search, reacts = agent.mind.search, agent.mode == "mode1"
    left = set(OTHERS[search.planner])
    if agent.world.facts.discrete:
        left |= {"colour", "std"}
    if not agent.world.latent.dim:
        left |= {"futures", "risk"}
    elif search.futures < 2:  # one future is the expected one and the worst
        left.add("risk")
    if search.levels < 2:
        left.add("far")
    goal = agent.mind.weights.get("goal")
    left |= {"critic"} if agent.critic is None else set()
    left |= {"arrive"} if search.arrive and not goal else set()
    if agent.trained is None or not isinstance(agent.trained.critic, Chart):
        left.add("stopped")
    if not (search.tried and goal):  # see `Agent.moments`
        left |= {"stopped"} if search.lessons and not reacts else {"stopped", "forget"}
        left |= {"tried"} if search.tried else set()
    asked = {"share": search.share < 1, "few": search.few > 0, "wrong": search.wrong > 0}
    left |= {name for name, told in asked.items() if told} - set_by(agent.configurator)
    return left | {one.name for one in fields(Search)} - REACTS if reacts else left


def unread_by_all(agents: Sequence[Agent], names: Sequence[str]) -> list[str]:
    """Those of some settings that none of some agents looks at."""
    if not agents or not names:
        return []
    left = set.intersection(*(unread(agent) for agent in agents))
    return [name for name in names if name in left]
