"""The measures that a study's YAML can name; `measure.py` says how one is added."""

from __future__ import annotations

from collections.abc import Callable

from .collapse import COLLAPSE
from .hierarchy import HIERARCHY
from .latent_measure import LATENT
from .measure import Beside, Measure
from .negatives import negatives_table

MEASURES: dict[str, Measure] = {"collapse": COLLAPSE, "hierarchy": HIERARCHY, "latent": LATENT}
BESIDE: dict[str, Callable[[], Beside]] = {"negatives": negatives_table}
