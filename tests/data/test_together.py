"""Ranks read together: what one of them cannot read is known to all, and none runs ahead."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from jepa_video.data.clips import ClipSettings, VideoClips
from jepa_video.data.loader import ClipLoader
from jepa_video.data.sampler import ClipSampler
from jepa_video.distributed import heard_by_all
from jepa_video.errors import UserError
from tests.ranks import run_ranks
from tests.videos import write_clip

SHORT = ClipSettings(frames=4, stride=2, size=32)
LOST = (3, 5, 7, 8)  # with two ranks: the second has 1 3, 5 7, 9 11, the first 0 2, 4 6, 8 10


def read(folder: str, limit: float) -> dict[str, Any]:
    """Batches of an epoch on this rank, and what its ledger says at the end."""
    clips = VideoClips(folder, SHORT, check="none", unreadable_limit=limit)
    sampler = ClipSampler(
        clips.lengths, shuffle=False, rank=dist.get_rank(), world=dist.get_world_size(), batch=2
    )
    loader = ClipLoader(clips, batch_size=2, sampler=sampler, together=True)
    found: dict[str, Any] = {"batches": [], "stopped": ""}
    try:
        for batch in loader:
            found["batches"].append(batch["index"].tolist())
    except UserError as error:
        found["stopped"] = str(error)
    found["lost"] = [int(Path(path).stem) for path, _ in loader.ledger.rows()]
    return found


def on_each_rank(folder: str) -> dict[str, Any]:
    own = [f"of {dist.get_rank()}"] * dist.get_rank()
    return {
        "heard": [*heard_by_all(own, dist.get_rank() == 0)],
        "nothing": [*heard_by_all([], False)],
        "all": read(folder, 1.0),
        "few": read(folder, 0.2),
    }


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("videos")
    for i in range(12):
        write_clip(folder / f"{i:02d}.mp4", 20)
        if i in LOST:
            os.truncate(folder / f"{i:02d}.mp4", 0)
    return run_ranks(on_each_rank, str(folder))


def test_a_batch_of_which_one_rank_has_nothing_is_left_out_on_all(
    ranks: list[dict[str, Any]],
) -> None:
    assert [rank["all"]["batches"] for rank in ranks] == [[[0, 2], [10]], [[1], [9, 11]]]


def test_every_rank_lists_what_any_could_not_read_and_stops_with_the_others(
    ranks: list[dict[str, Any]],
) -> None:
    for rank in ranks:
        assert sorted(rank["all"]["lost"]) == list(LOST) and not rank["all"]["stopped"]
        assert sorted(rank["few"]["lost"]) == [3, 5, 7]
        assert "3 of 12 video files" in rank["few"]["stopped"]
        assert len(rank["few"]["batches"]) == 1


def test_what_ranks_tell_each_other(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert rank["heard"] == [["of 1"], True] and rank["nothing"] == [[], False]


def test_one_process_hears_itself() -> None:
    assert heard_by_all(["own"], True) == (["own"], True)
