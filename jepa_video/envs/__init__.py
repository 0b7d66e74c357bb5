"""Environments from pixels: our own in numpy, and any gymnasium environment brought to their form.

`make(id)` gives one gymnasium environment, `make_batch(id, batch)` many that step together.
"""

from jepa_video.envs.registry import make, make_batch

__all__ = ["make", "make_batch"]
