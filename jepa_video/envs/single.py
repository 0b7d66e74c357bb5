"""Single: a world of one as a plain `gymnasium.Env`."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from jepa_video.envs.base import Array, BatchEnv, Observation, Told


class Single(gymnasium.Env[Observation, Array]):
    """A BatchEnv with B = 1 without the axis of the batch.

    Args:
        batch_env: runs one episode.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, batch_env: BatchEnv) -> None:
        self.batch_env, self.render_mode = batch_env, "rgb_array"
        self.observation_space = batch_env.single_observation_space
        self.action_space = batch_env.single_action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, Told]:
        """Begin the episode `seed`; `options["tasks"]` as `World.reset` takes it, one row."""
        super().reset(seed=seed)
        if seed is None:  # drawn from this environment's own generator, as gymnasium wants it
            seed = int(self.np_random.integers(2**31))
        observation, told = self.batch_env.reset(seed=seed, options=options)
        return _first(observation), _first(told)

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, Told]:
        """Take one action `A`."""
        batch = self.batch_env.step(np.asarray(action)[None])
        observation, reward, ended, cut, told = batch
        return (
            _first(observation), float(reward[0]), bool(ended[0]), bool(cut[0]), _first(told)
        )  # fmt: skip

    def render(self) -> Array:
        """The picture of now."""
        pictures: Any = self.batch_env.render()
        return np.asarray(pictures[0])

    def close(self) -> None:
        """Close what runs."""
        self.batch_env.close()


def _first(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: values[0] for name, values in batch.items()}
