"""The measure `latent`: what z holds at a fork, and whether F still tells true pairs from false."""

from __future__ import annotations

from .fork_pictures import draw_futures
from .forks import fork_figures
from .measure import Column, Curve, Measure

LATENT = Measure(
    columns=(
        Column(
            "fork_energy",
            "energy at the fork",
            1,
            3,
            "Energy of the true future on the tokens that the fork decides, minimised over z. "
            "Without z nothing gets below the energy of the mean of all ways.",
            (("fork_energy_bland", "mean of all ways"),),
        ),
        Column("fork_energy_posterior", "with posterior z", 1, 3, charted=False),
        Column(
            "free_energy_auc",
            "AUC of F",
            1,
            3,
            "How often F(x, y) of a true pair lies below that of a pair with another clip's y.",
        ),
        Column(
            "latent_bits",
            "bits in z",
            1,
            2,
            "Information of the posterior beyond the prior; the way alone is log2 of its number.",
        ),
        Column(
            "ways_covered",
            "all ways covered, %",
            100,
            1,
            "Clips of which 64 draws of z show every way.",
            (("ways_covered_low", "lower end of the 95 % interval"),),
        ),
        Column("way_probe", "way read off z, %", 100, 1, "Linear probe of the inferred z."),
        Column("argmin_no_worse", "z* no worse, %", 100, 1, charted=False),
        Column("parameters", "predictor weights", 1, 0, charted=False),
    ),
    figures=fork_figures,
    curves=(
        Curve("energy", "Energy of training batches"),
        Curve("latent/bits", "Bits in z"),
        Curve("energy_auc", "AUC of held-out pairs", "0.5 where z explains any y."),
    ),
    draw=draw_futures,
)
