"""What was tried: an agent that has done something in a place in vain does something else there.

    tried(s, a) = sum_i c_i exp(-|(s, a) - (s_i, a_i)|^2 / T)

The sum is over the moments of the episode that short-term memory holds, `c_i` the cost `goal` that
was felt in them, without its weight: where the agent was content nothing speaks against the same
again. A reaction depends on state and goal alone, so that one that leads nowhere leads nowhere for
ever: it is to be the nearest to it that memory does not speak against. In a plan, what was tried is
a cost of each step. Both with nothing trained.

Lengths are those of `lessons.py`: states in units of `reach`, actions of `ACTION`. Legend: B
environments, M moments, N rows of them all, K numbers of a key.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from torch import Tensor

from .lessons import TEMPERATURE, gaps, keys
from .memory import Moment
from .met import PRICE

AGAINST: Final = 10.0  # what one such moment weighs for a reaction, in squared units of an action
AGAIN: Final = 1.0  # and what it costs a plan, in steps


class Tried(NamedTuple):
    """What memory holds of it now.

    Attributes:
        keys: places and actions, `B M K`.
        felt: the cost `goal` at the time, 0 to 1, `B M`; 0 in empty slots.
        reach: distance of states that count as the same place.
        place: where it was done, `B M D`.
        action: what, `B M A`.
        came: where that led, `B M D`.
        price: steps that a way costs more for each time that it was stopped, see `met.py`.
    """

    keys: Tensor
    felt: Tensor
    reach: float
    place: Tensor
    action: Tensor
    came: Tensor
    price: float = PRICE

    @classmethod
    def of(
        cls,
        told: Moment,
        came: Tensor,
        felt: Tensor,
        aim: int,
        reach: float,
        price: float = PRICE,
    ) -> Tried:
        """From the moments of an episode.

        Args:
            told: of which the first `aim` numbers of a state say where the agent was.
            came: where that led, as many numbers of the states after them, `B M D`.
            felt: the cost `goal` in each of them, without its weight, `B M`.
            aim: D.
            reach: distance of states that count as the same place.
            price: see `Tried`.
        """
        place = told.state.flatten(2)[..., :aim]
        known, felt = keys(place, told.action, reach), felt * told.found
        # Copies: what is told stands while memory is written on.
        return cls(known, felt, reach, place.clone(), told.action.clone(), came, price)

    def rows(self, which: Tensor) -> Tried:
        """That of some environments."""
        place, action, came = (part[which] for part in (self.place, self.action, self.came))
        keys, felt = self.keys[which], self.felt[which]
        return Tried(keys, felt, self.reach, place, action, came, self.price)

    def often(self, places: Tensor, actions: Tensor) -> Tensor:
        """How often that was done there in vain, for places `N D` and actions `N A`: `N`.

        The N rows are those of B environments, one after the other.
        """
        near = (-gaps(self.keys, places, actions, self.reach) / TEMPERATURE).exp()
        told: Tensor = (near * self.felt[:, None]).sum(-1)
        return told.flatten()
