"""Environments of other packages by FAMILY/NAME, each as a `gymnasium.Env` that draws itself.

What a machine without a screen needs is chosen here: MuJoCo draws through EGL where its library is
found, else through OSMesa; pygame draws into memory. Whoever has set MUJOCO_GL or SDL_VIDEODRIVER
is left alone.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ctypes.util import find_library
from importlib import import_module
from typing import Any, Final

import gymnasium
import numpy as np
from gymnasium import spaces

from jepa_video.envs.base import Array
from jepa_video.errors import UserError

Solved = Callable[[bool, float], bool]

# By family: the module that has to be there, and the names that gymnasium knows it by.
_MODULE: Final = {
    "gym": "pygame",
    "minigrid": "minigrid",
    "dmc": "dm_control",
    "mujoco": "mujoco",
    "swm": "stable_worldmodel.envs",
    "atari": "ale_py",
}
_PREFIX: Final = {"swm": "swm/", "atari": "ALE/"}
# Where a step's end or its reward says whether it is solved; else only the info can (`is_success`).
SOLVED: Final[dict[str, Solved]] = {
    "minigrid": lambda ended, reward: ended and reward > 0,
    "swm": lambda ended, reward: ended,
    "dmc": lambda ended, reward: reward >= 1 - 1e-6,  # its rewards end at 1, within the target
}

SHADOWS: Final = 8  # pixels of DeepMind's shadows for one of the picture
STAYS: Final = ("dmc",)  # its episodes end by time alone, and are told by their return


def load(family: str, name: str, size: int) -> gymnasium.Env[Any, Any]:
    """One environment of another package.

    Args:
        family: a key of `registry.FAMILIES`.
        name: what the package calls it.
        size: height and width to draw at, where the package lets one choose.

    Raises:
        UserError: the package is missing, has nothing of this name, or cannot draw here.
    """
    _choose_screen(family)
    if family in ("dmc", "mujoco"):
        # Once Mesa has drawn by EGL, a first import of triton (by torch, much later) ends the
        # process: both bring an LLVM. In the other order they get on.
        with suppress(ImportError):
            import_module("triton")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "ale-py not found")  # stable-worldmodel, of another
            with _drawable(family):
                module = import_module(_MODULE[family])
    except ImportError as error:
        raise _missing(family, name, error) from None
    if family == "dmc":
        return DeepMindControl(name, size)
    if family == "atari":
        gymnasium.register_envs(module)
    drawn = {"width": size, "height": size} if family == "mujoco" else {}
    full = _PREFIX.get(family, "") + name
    try:
        made = gymnasium.make(full, render_mode="rgb_array", disable_env_checker=True, **drawn)
    except gymnasium.error.DependencyNotInstalled as error:
        told = " ".join(str(error).split())
        raise UserError(f"{family}/{name}: {told}; pip install 'jepa-video[{family}]'") from None
    except ImportError as error:
        raise _missing(family, name, error) from None
    except gymnasium.error.Error as error:
        told = " ".join(str(error).split())
        raise UserError(f"there is no environment {family}/{name}: {told}") from None
    if family == "mujoco":  # its camera looks for good at where things are at the first picture
        with _drawable(family):
            made.reset(seed=0)
            made.render()
    return made


def _missing(family: str, name: str, error: ImportError) -> UserError:
    needed = error.name or _MODULE[family]
    return UserError(f"{family}/{name} needs {needed}: pip install 'jepa-video[{family}]'")


def _choose_screen(family: str) -> None:
    """Settings for a machine without a screen; they must be there before the package is."""
    if not sys.platform.startswith("linux") or os.environ.get("DISPLAY"):
        return
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    if family in ("dmc", "mujoco") and "MUJOCO_GL" not in os.environ:
        for way, library in (("egl", "EGL"), ("osmesa", "OSMesa")):
            if find_library(library):
                os.environ["MUJOCO_GL"] = way
                return
        raise UserError(
            f"{family} environments are drawn by MuJoCo, which finds neither EGL nor OSMesa here: "
            "install libegl1 or libosmesa6, or set MUJOCO_GL"
        )


@contextmanager
def _drawable(family: str) -> Iterator[None]:
    """Say it where MuJoCo cannot draw as the environment variable tells it to."""
    try:
        yield
    except (AttributeError, RuntimeError) as error:
        way = os.environ.get("MUJOCO_GL")
        if family not in ("dmc", "mujoco") or not way:
            raise
        raise UserError(
            f"{family} environments are drawn by MuJoCo, and not by MUJOCO_GL={way} here: unset it "
            f"for what there is, or install what it needs ({error})"
        ) from None


class DeepMindControl(gymnasium.Env[dict[str, Array], Array]):
    """A task of the DeepMind Control Suite.

    Args:
        name: DOMAIN-TASK, as cartpole-swingup.
        size: height and width of the pictures.
    """

    render_mode = "rgb_array"

    def __init__(self, name: str, size: int) -> None:
        with _drawable("dmc"):
            suite = import_module("dm_control.suite")
        domain, _, task = name.partition("-")
        if (domain, task) not in suite.ALL_TASKS:
            near = ", ".join(t for d, t in suite.ALL_TASKS if d == domain)
            hint = f"; {domain} has {near}" if near else ", as in dmc/cartpole-swingup"
            raise UserError(f"there is no environment dmc/{name}: expected dmc/DOMAIN-TASK{hint}")
        self.control: Any = suite.load(domain, task)
        self.size = size
        # Shadows are drawn first, for 2,048 pixels a side: half of a small picture's time, and not
        # seen in it.
        quality = self.control.physics.model.vis.quality
        quality.shadowsize = min(quality.shadowsize, SHADOWS * size)
        action = self.control.action_spec()
        low, high = (np.broadcast_to(x, action.shape) for x in (action.minimum, action.maximum))
        self.action_space = spaces.Box(low.astype(np.float32), high.astype(np.float32))
        told = self.control.observation_spec().items()
        box: dict[str, spaces.Space[Any]] = {
            key: spaces.Box(-np.inf, np.inf, spec.shape or (1,)) for key, spec in told
        }
        self.observation_space: spaces.Space[Any] = spaces.Dict(box)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        if seed is not None:
            self.control.task._random = np.random.RandomState(seed)
        return self._seen(self.control.reset()), {}

    def step(self, action: Array) -> tuple[dict[str, Array], float, bool, bool, dict[str, Any]]:
        """One control step; the suite's episodes end by time alone, at most with discount 0."""
        time = self.control.step(action)
        over = bool(time.last())
        ended = over and time.discount == 0
        return self._seen(time), float(time.reward or 0), ended, over and not ended, {}

    def render(self) -> Array:
        """The first camera's picture."""
        picture = self.control.physics.render(self.size, self.size, camera_id=0)
        return np.asarray(picture)

    def close(self) -> None:
        """Free the drawing context."""
        self.control.physics.free()

    def _seen(self, time: Any) -> dict[str, Array]:
        return {k: np.atleast_1d(np.asarray(v, np.float32)) for k, v in time.observation.items()}
