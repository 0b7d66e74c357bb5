"""Claims of the configurator: plans are no more than were allowed, and are made where wanted."""

from __future__ import annotations

import torch

from jepa_video.agent.configurator import Doubtful, Learned, Setting, Thrifty, Worth
from jepa_video.agent.cost import Critic
from jepa_video.agent.task import Task


class Wants:
    """Wants a plan where the state is above 0."""

    def begin(self, seeds):
        pass

    def configure(self, state, task):
        return Setting(state[:, 0, 0] > 0, task, state[:, 0, 0])


def planned(share: float, wanted: torch.Tensor) -> torch.Tensor:
    """Which of the decisions `T B` were planned, of those in which that was wanted."""
    one = Thrifty(Wants(), share)
    found = []
    for _ in range(2):  # the second time everything begins anew
        one.begin([1, 2])
        rows = [one.configure(row.float()[:, None, None], Task(None)) for row in wanted]
        found.append(torch.stack([row.plans for row in rows]))
    assert torch.equal(*found)
    return found[1]


def test_no_more_than_the_share_of_what_was_decided_so_far_is_planned():
    torch.manual_seed(0)
    wanted = torch.rand(60, 2) < torch.tensor([0.9, 0.05])
    for share in (0.0, 0.2, 1 / 3, 1.0):
        plans = planned(share, wanted)
        assert not (plans & ~wanted).any()
        so_far = torch.arange(1, 61)[:, None]
        assert (plans.cumsum(0) <= share * so_far + 1e-6).all()
        # It plans where it is allowed to: who wants it all the time gets all that there is.
        allowed = (plans.cumsum(0) - plans.long() + 1) <= share * so_far
        assert torch.equal(plans, wanted & allowed)
    assert torch.equal(planned(1.0, wanted), wanted)
    assert planned(0.2, wanted)[:, 1].sum() == wanted[:, 1].sum()  # seldom, so that none is lost


def test_a_doubt_that_is_no_number_is_a_reason_to_plan():
    critic, worth = Critic(2, 0, 8), Worth(2, 0, 8)
    task, states = Task(None), torch.tensor([[[0.0, 0.0]], [[torch.nan, 0.0]]])
    for one in (Doubtful(critic, 1e9), Learned(worth, 1e9)):
        assert one.configure(states, task).plans.tolist() == [False, True]
