"""Environments by id: our own by name, others as FAMILY/NAME.

    env = make("TwoRooms")                        # one, a gymnasium.Env
    envs = make_batch("TwoRooms", 64, budget=90)  # 64 that step together
    make_batch("gym/Pendulum-v1", 4, repeat=2)    # needs the family's own package
    make_batch("dmc/reacher-easy", 8, workers=4)  # two in each of four processes

Importing this module imports no environment.
"""

from __future__ import annotations

import inspect
import json
import shlex
from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from jepa_video.errors import UserError

if TYPE_CHECKING:
    import gymnasium

    from jepa_video.envs.base import BatchEnv

WORLDS: Final = {
    "TwoRooms": "two_rooms",
    "Rooms": "rooms",
    "PointPush": "push",
    "Pendulum": "swing",
    "CartPole": "swing",
    "Stochastic": "stochastic",
}
FAMILIES: Final = {
    "gym": "gymnasium's classic control, as gym/Pendulum-v1",
    "minigrid": "MiniGrid, as minigrid/MiniGrid-Empty-8x8-v0",
    "dmc": "DeepMind Control, as dmc/cartpole-swingup",
    "mujoco": "gymnasium's MuJoCo, as mujoco/Reacher-v5",
    "swm": "stable-worldmodel, as swm/PushT-v1 and swm/TwoRoom-v1",
    "atari": "the Arcade Learning Environment, as atari/Breakout-v5",
}


def make(id: str, **settings: Any) -> gymnasium.Env[Any, Any]:
    """One environment; see `make_batch`."""
    envs = make_batch(id, 1, **settings)
    single = import_module("jepa_video.envs.single").Single(envs)
    return single  # type: ignore[no-any-return]


def make_batch(id: str, batch: int = 1, *, workers: int = 0, **settings: Any) -> BatchEnv:
    """A batch of environments.

    Args:
        id: one of `WORLDS`, or FAMILY/NAME.
        batch: how many step together.
        workers: processes that step parts of the batch at the same time, with equal results; with 0
            or 1 they all step in this one. A process knows no id that the caller's script made up.
        settings: the environment's own, such as `budget`, `stack` and `repeat`; one that it does
            not know is an error.

    Raises:
        UserError: unknown id or setting, a package that is missing.
    """
    maker, fixed = maker_of(id)
    _known(id, maker, settings)
    if workers < 0:
        raise UserError(f"workers must be 0 or more, not {workers}")
    if min(workers, batch) > 1:
        split: BatchEnv = import_module("jepa_video.envs.split").split_batch(
            id, batch, min(workers, batch), settings
        )
        return split
    made: BatchEnv = maker(batch=batch, **fixed, **settings)
    return made


def maker_of(id: str) -> tuple[Callable[..., BatchEnv], dict[str, Any]]:
    """What makes a batch of this environment, and the arguments that its id fixes.

    Raises:
        UserError: unknown id.
    """
    need_gymnasium()
    family, slash, name = id.partition("/")
    if id in WORLDS:
        return getattr(import_module(f"jepa_video.envs.{WORLDS[id]}"), id), {}
    if slash and family in FAMILIES:
        maker = import_module("jepa_video.envs.wrap").wrap_family
        return maker, {"family": family, "name": name}
    near = get_close_matches(id, [*WORLDS, *(f"{name}/" for name in FAMILIES)], 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    known = ", ".join([*WORLDS, *(f"{name}/NAME" for name in FAMILIES)])
    raise UserError(f"there is no environment {id!r} (expected one of {known}){hint}")


def all_settings(id: str, given: dict[str, Any]) -> dict[str, Any]:
    """The settings given and, for the others of an environment, their defaults."""
    maker, fixed = maker_of(id)
    _known(id, maker, given)
    takes = inspect.signature(maker).parameters
    own = {n: told.default for n, told in takes.items() if n not in ("batch", *fixed)}
    return {**own, **given}


def unusual(id: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What is set otherwise than by default, for whoever is judged.

    Budget and scenes are left out: those of episodes to learn from say for how long somebody
    explored, and where; whoever is judged has the environment's own.
    """
    try:
        usual = json.loads(json.dumps(all_settings(id, {})))
    except UserError:  # where its package is not installed
        usual = {}
    return {
        name: value
        for name, value in settings.items()
        if name not in ("budget", "scenes") and value != usual.get(name)
    }


def env_words(id: str | None, settings: dict[str, Any]) -> str:
    """The options of a command line that name an environment: `--env` and what is `unusual`."""
    if id is None:
        return "--env ID"
    own = [f"--{name} {shlex.quote(str(value))}" for name, value in unusual(id, settings).items()]
    return " ".join([f"--env {shlex.quote(id)}", *own])


def env_call(id: str | None, settings: dict[str, Any], batch: int) -> str:
    """The same as a line of Python."""
    own = {} if id is None else unusual(id, settings)
    told = [repr(id or "ID"), str(batch), *(f"{name}={value!r}" for name, value in own.items())]
    return f"make_batch({', '.join(told)})"


def need_gymnasium() -> None:
    """Say in a sentence that gymnasium is missing."""
    try:
        import gymnasium  # noqa: F401
    except ImportError:
        raise UserError("environments need gymnasium: pip install 'jepa-video[control]'") from None


def _known(id: str, maker: Any, settings: dict[str, Any]) -> None:
    takes = [name for name in inspect.signature(maker).parameters if name != "batch"]
    for name in settings:
        if name not in takes:
            told = ", ".join(n for n in takes if n not in ("family", "name"))
            raise UserError(f"{id} has no setting {name!r}; it has {told}")
