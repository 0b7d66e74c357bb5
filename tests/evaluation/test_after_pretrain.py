"""The last word of a run is about the encoder that it leaves, not about its tokens alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from jepa_video.evaluation.after_pretrain import _verdict
from jepa_video.training.run import Run

TOKENS = "step,rankme/context,rankme/target\n40,30,30\n120,25,25\n"


@pytest.mark.parametrize(("rank", "state"), [(1.8, "collapsed"), (2.6, "watch"), (12.0, "healthy")])
def test_clips_that_fill_one_direction_have_collapsed_whatever_their_tokens_fill(
    rank: float, state: str, tmp_path: Path
) -> None:
    """Tokens that tell places apart have a rank of 25 in each case."""
    run = Run(tmp_path)
    run.metrics.write_text(TOKENS)
    said = _verdict(run, {"rankme": rank}, width=64)
    assert said.startswith(state)
    assert ("effective rank of the encoder is" in said) == (state != "healthy")
