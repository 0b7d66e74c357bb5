"""The end of a run: its last word is about the encoder, and its probes are those of its videos."""

from __future__ import annotations

from pathlib import Path

import pytest

from jepa_video.data.datamodule import VideoDataModule
from jepa_video.data.synthetic import SyntheticSettings, write_synthetic
from jepa_video.evaluation.after_pretrain import _verdict
from jepa_video.evaluation.probing import ProbeSettings, label_draws, primary_label
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


def test_manifests_of_ones_own_are_not_the_embedded_set(tmp_path: Path) -> None:
    """`data.root` keeps its default beside `data.train`, and 20 labels a class are its habit."""
    settings = SyntheticSettings(videos_train=30, videos_val=8, frames=8, size=32)
    folder = write_synthetic(tmp_path / "set", settings, workers=1)
    lists = [str(folder / f"{split}.csv") for split in ("train", "val")]
    data = VideoDataModule(train=lists[0], val=lists[1], frames=4, check="none")
    assert not data.embedded and data.where == lists[0]
    assert primary_label(data, ProbeSettings()) == data.label_names[0] != "direction"
    assert label_draws(data, "shape", ProbeSettings()) == [list(range(30))]
