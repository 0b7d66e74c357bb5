import pytest
import torch

from jepa_video.data.masks import Mixture, MultiBlock, PastToFuture, block_coverage
from jepa_video.errors import UserError

GRID = (4, 8, 8)
SAMPLERS = [
    MultiBlock(),
    MultiBlock(wrap=False),
    PastToFuture(),
    PastToFuture(0.25, hide=0.5),
    Mixture(),
]


def draw(sampler, batch=16, seed=0, grid=GRID):
    return sampler(grid, batch, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("grid", [GRID, (2, 4, 4), (8, 14, 14)])
def test_context_and_target_partition_the_grid(sampler, grid):
    n = grid[0] * grid[1] * grid[2]
    for group in draw(sampler, grid=grid):
        both = torch.cat(group, dim=1).sort(dim=1).values
        assert torch.equal(both, torch.arange(n).expand(16, -1))
        for part in group:
            assert part.shape[1] > 0 and torch.equal(part, part.sort(dim=1).values)


def test_block_masks_last_the_whole_clip():
    for group in draw(MultiBlock()):
        t, per_slot = GRID[0], GRID[1] * GRID[2]
        slots = group.context.view(16, t, -1)
        assert torch.equal(slots % per_slot, (slots[:, :1] % per_slot).expand_as(slots))


def test_no_position_is_favoured():
    """Each position is context equally often: in space by wrapping, in time by whole columns."""
    counts = torch.zeros(2, GRID[0] * GRID[1] * GRID[2])
    draws, batch = 150, 32
    for seed in range(draws):
        for i, group in enumerate(draw(MultiBlock(), batch, seed)):
            counts[i] += torch.bincount(group.context.flatten(), minlength=counts.shape[1])
    share = counts / (draws * batch)
    for row in share:
        spread = (row.max() - row.min()) / row.mean()
        assert spread < 0.35, spread  # six standard errors of 4,800 clips at the rarer group
        by_slot = row.view(GRID[0], -1).sum(1)
        assert torch.equal(by_slot, by_slot[:1].expand_as(by_slot))


def test_blocks_kept_inside_do_favour_the_centre():
    """What wrapping mends: the corner is hidden less often than the centre."""
    hidden = torch.zeros(GRID[1] * GRID[2])
    for seed in range(100):
        group = draw(MultiBlock(counts=[1], scales=[0.25], wrap=False), 32, seed)[0]
        first = group.target[group.target < 64]
        hidden += torch.bincount(first, minlength=64)
    hidden = hidden.view(8, 8)
    assert hidden[0, 0] < 0.6 * hidden[3:5, 3:5].mean()


def test_blocks_have_the_scale_and_aspect_that_was_asked_for():
    sampler = MultiBlock()
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        rows, columns = sampler.block_size(100, 100, 0.15, generator)
        assert rows * columns == pytest.approx(1500, rel=0.05)
        assert 0.72 < rows / columns < 1.55


def test_coverage_is_the_union_of_blocks():
    corners = torch.tensor([[[0, 0], [3, 3]]])
    covered = block_coverage(4, 4, (2, 2), corners)[0]
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[:2, :2] = True
    for row in (3, 0):
        for column in (3, 0):
            expected[row, column] = True
    assert torch.equal(covered, expected)


def test_past_comes_before_future():
    (group,) = draw(PastToFuture(0.5))
    assert group.context.max() < 128 <= group.target.min()
    (group,) = draw(PastToFuture(0.5, hide=0.25))
    assert group.context.max() < 128 and group.context.shape[1] == 96


def test_masks_repeat_with_their_generator_and_differ_between_draws():
    one, again, other = (draw(MultiBlock(), seed=s)[0].context for s in (3, 3, 4))
    assert torch.equal(one, again)
    assert one.shape != other.shape or not torch.equal(one, other)


def test_mixture_uses_its_weights():
    never = Mixture([PastToFuture, MultiBlock], [0.0, 1.0])
    assert all(len(draw(never, seed=s)) == 2 for s in range(10))


@pytest.mark.parametrize("bad", [{"past": 0.0}, {"past": 1.0}, {"hide": 1.0}])
def test_bad_settings_are_named(bad):
    with pytest.raises(UserError, match=next(iter(bad))):
        PastToFuture(**bad)
