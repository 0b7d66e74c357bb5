"""Claims of what mode 1 keeps: it reacts as one that looks anew, and notices what is new."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from jepa_video.agent.chart import Chart
from jepa_video.agent.kept import Kept
from jepa_video.agent.met import Met

AIM, SIDE, EACH = 4, 8, 3


@pytest.fixture
def chart() -> Chart:
    """One whose places are the first two points, in cells, with weights that see walls anyhow."""
    torch.manual_seed(0)
    made = Chart(AIM + SIDE * SIDE * EACH, AIM, (SIDE, SIDE), 2)
    with torch.no_grad():
        made.where.weight.zero_()
        made.where.bias.zero_()
        made.where.weight[0, 0] = made.where.weight[1, 1] = 1.0
        made.drive.copy_(torch.eye(2))
    return made.eval()


@pytest.fixture
def looks(chart: Chart, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many scenes were looked at, each time."""
    counted: list[int] = []
    ground = chart.ground

    def counting(states: Tensor) -> Any:
        counted.append(len(states))
        return ground(states)

    monkeypatch.setattr(chart, "ground", counting)
    return counted


def scene(count: int, seed: int = 0) -> Tensor:
    """States `B 1 D` of agents in the middle of as many scenes."""
    states = torch.randn(
        count, AIM + SIDE * SIDE * EACH, generator=torch.Generator().manual_seed(seed)
    )
    states[:, :AIM] = torch.tensor([4.5, 4.5, 0.0, 0.0])
    return states[:, None]


def moved(states: Tensor, x: float, y: float) -> Tensor:
    """The same scenes with the agent elsewhere."""
    states = states.clone()
    states[:, 0, :2] = torch.tensor([x, y])
    return states


def met(*places: tuple[float, float], count: int = 2) -> Met:
    """The first environment was stopped there on its way east."""
    here = torch.tensor([places]).expand(count, -1, -1) if places else torch.zeros(count, 0, 2)
    way = torch.tensor([1.0, 0.0]).expand_as(here)
    stopped = torch.zeros(count, len(places))
    stopped[0] = 1
    return Met(here, way, stopped)


def goals(states: Tensor) -> Tensor:
    return torch.tensor([[7.5, 1.5]]).expand(len(states), 1, 2)


def test_an_agent_that_walks_looks_once_and_reacts_as_one_that_looks_anew(chart, looks):
    kept, states = Kept(), scene(3)
    goal = moved(states, 7.5, 1.5)
    for x, y in ((4.5, 4.5), (5.5, 4.2), (6.5, 3.0), (7.2, 2.0)):
        now = moved(states, x, y)
        torch.testing.assert_close(chart.slope(now, goal, kept=kept), chart.slope(now, goal))
    assert looks == [3, 3, 3, 3, 3], "four times anew, once for what is kept"


def test_what_the_agent_leaves_in_the_map_is_nothing_new_and_a_door_that_opens_is(chart, looks):
    kept, states = Kept(), scene(2)
    kept.of(chart, states, goals(states), None)
    own = states.clone()
    own[:, 0, AIM:].view(2, SIDE, SIDE, EACH)[:, 4, 4] += 5.0  # where it is
    kept.of(chart, own, goals(states), None)
    assert looks == [2]
    own[1, 0, AIM:].view(SIDE, SIDE, EACH)[0, 7] += 5.0  # far from it, in the second alone
    field = kept.of(chart, own, goals(states), None)
    assert looks == [2, 1]
    anew = chart.field(chart.ground(own), goals(states))
    torch.testing.assert_close(field.value[1], anew.value[1])
    assert not torch.allclose(field.value[0], anew.value[0]), "the first was not looked at"


def test_another_goal_and_what_was_met_are_new_to_those_whom_it_concerns(chart, looks, monkeypatch):
    kept, states, asked, find = Kept(), scene(2), [], chart.field

    def counting(ground: Any, goals: Tensor, met: Met | None = None) -> Any:
        asked.append(len(goals))
        return find(ground, goals, met)

    monkeypatch.setattr(chart, "field", counting)
    kept.of(chart, states, goals(states), met())
    other = goals(states).clone()
    other[1, 0, 0] = 2.5
    kept.of(chart, states, other, met())
    field = kept.of(chart, states, other, met((4.5, 4.5)))
    assert asked == [2, 1, 1]
    assert kept.of(chart, states, other, met((4.5, 4.5))) is field, "not again"
    assert looks == [2, 1], "for another goal the ground is the same; for what stopped it not"
    anew = chart.field(chart.ground(states), other, met((4.5, 4.5)))
    for one, two in zip(field, anew, strict=True):
        torch.testing.assert_close(one, two)


def test_after_sixteen_decisions_it_looks_anew_and_another_batch_is_another_episode(chart, looks):
    kept, states = Kept(), scene(2)
    for _ in range(17):
        kept.of(chart, states, goals(states), None)
    assert looks == [2, 2]
    kept.of(chart, scene(3), goals(scene(3)), None)
    assert looks == [2, 2, 3]
