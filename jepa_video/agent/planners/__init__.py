"""Planners: actions of low cost, through `cost(state, actions[B, S, H, A], task) -> [B, S]`."""

from .base import Cost, Limits, Plan, Planner
from .categorical import CategoricalCEM
from .futures import OverFutures
from .gradient import GradientPlanner, PolishedPlanner
from .sampling import CEM, MPPI

__all__ = [
    "CEM",
    "MPPI",
    "CategoricalCEM",
    "Cost",
    "GradientPlanner",
    "Limits",
    "OverFutures",
    "Plan",
    "Planner",
    "PolishedPlanner",
]
