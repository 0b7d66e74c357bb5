"""What `agent fit` says at the start of a training that its reader would not see otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ..agent.bank import Bank
from ..agent.chart import Chart
from ..agent.learner import AgentLearner
from ..interop.files import read_json

ONE_NETWORK: Final = "learn.members 1: one network has no doubt, so that mode auto will always plan"


def collapse_words(checkpoint: Path) -> list[str]:
    """A line on a world model whose own run says that its states have collapsed; else none."""
    summary = checkpoint.expanduser() / "summary.json"
    told = str(read_json(summary).get("verdict", "")) if summary.is_file() else ""
    return [f"world     {told}"] if told.startswith("collapsed") else []


def chart_words(module: AgentLearner) -> list[str]:
    """A line on the chart's cells and how places were laid in them, where there is a chart."""
    if not isinstance(module.critic, Chart):
        return []
    high, wide = module.critic.size
    return [f"chart     {wide} x {high} cells; places laid {module.critic.placed}"]


def idle_words(module: AgentLearner, steps: int) -> list[str]:
    """A line where the critic, which begins alone, takes the one step that is left; else none."""
    late = module.fresh and (module.ways or module.recall)
    if not late or steps < 0 or steps - round(module.correct * steps) != 1:
        return []
    return [f"policy    it learns nothing in {steps} steps: give a larger trainer.max_steps"]


def ending_words(module: AgentLearner, bank: Bank) -> list[str]:
    """A line on episodes that ended of their own, where nothing is learned of that; else none."""
    count = sum(bool(ended.any()) for ended in bank.terminated)
    if module.ways or module.recall or module.source == "deeds" or not count:
        return []
    way = "source deeds" if module.source == "dreams" else "recall 10"  # dreams take no recall
    return [
        f"critic    {count} of {len(bank.terminated)} episodes ended of their own; what came after "
        f"their end is imagined: --learn.{way} learns from memory that nothing did"
    ]
