"""The cache of features: found by what they depend on, whole or not at all, one of two writers."""

import multiprocessing
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from jepa_video.errors import UserError
from jepa_video.evaluation.cache import (
    Shelf,
    alone,
    digest,
    load_outcome,
    opened,
    save_outcome,
    weights_key,
)
from jepa_video.evaluation.scores import Outcome


def shelf(root: Path, key: str = "a") -> Shelf:
    return Shelf(root, key, (4, 2, 3), "float16", {"what": "a test"})


def test_a_shelf_appears_whole_and_the_second_writer_loses_quietly(tmp_path):
    one, two = shelf(tmp_path), shelf(tmp_path)
    drafts = [one.draft("1"), two.draft("2")]
    for value, draft in enumerate(drafts):
        array, read = opened(draft)
        array[:], read[:] = value, True
        array.flush(), read.flush()
    assert not one.there
    one.finish(drafts[0])
    two.finish(drafts[1])
    array, read = one.load()
    assert isinstance(array, np.memmap) and (array == 0).all() and read.all()
    assert [path.name for path in (tmp_path / "features").iterdir()] == ["a"]


def test_damage_is_told(tmp_path):
    one = shelf(tmp_path)
    one.finish(one.draft("1"))
    (one.folder / "array.npy").write_bytes(b"no array")
    with pytest.raises(UserError, match="damaged.*remove that folder"):
        one.load()


def test_a_cache_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write features into"):
        shelf(tmp_path / "file").draft("1")


def test_the_key_is_that_of_values_and_shapes():
    x = torch.arange(6.0)
    assert digest(x) == digest(x.clone()) != digest(x.view(2, 3))
    assert len({digest(x), digest(x.half()), digest(x + 1), digest("a", "b"), digest("ab")}) == 5
    one, two = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    assert weights_key(one, {}) == weights_key(one, {}) != weights_key(two, {})
    assert weights_key(one, {}) != weights_key(one, {"patch": 8})


def _hold(root: str, key: str, queue) -> None:
    with alone(Path(root), [key]):
        queue.put(("in", time.monotonic()))
        time.sleep(0.5)
        queue.put(("out", time.monotonic()))


def test_two_processes_take_turns(tmp_path):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    both = [context.Process(target=_hold, args=(str(tmp_path), "k", queue)) for _ in range(2)]
    for process in both:
        process.start()
    events = [queue.get(timeout=60) for _ in range(4)]
    for process in both:
        process.join()
    assert [word for word, _ in sorted(events, key=lambda e: e[1])] == ["in", "out", "in", "out"]


def test_what_a_killed_process_left_goes_with_the_next(tmp_path):
    mine, other = (Shelf(tmp_path, key, (2, 3), "float32", {}) for key in "ab")
    stale, living = mine.draft("1-aa"), other.draft("2-bb")
    with alone(tmp_path, ["a"]):
        assert not stale.exists() and living.exists()
        fresh = mine.draft("3-cc")
    assert fresh.exists()


def test_a_fit_is_remembered_and_a_damaged_one_is_not(tmp_path):
    outcome = Outcome(torch.randn(2, 5, 3), [{"C": 0.1}], 7)
    assert load_outcome(tmp_path, "a") is None
    save_outcome(tmp_path, "a", outcome)
    found = load_outcome(tmp_path, "a")
    assert torch.equal(found.scores, outcome.scores)
    assert (found.chosen, found.labelled) == ([{"C": 0.1}], 7)
    (tmp_path / "fits" / "a.safetensors").write_bytes(b"junk")
    assert load_outcome(tmp_path, "a") is None
