"""What z is worth at a fork: the same clip with each of its ways, and what the model says of them.

A video of the embedded set with a fork can be drawn again with another outcome of the coin: every
pixel up to the turn is the same. So each held-out clip has K true futures, and it is known which
target tokens the fork decides. Energies here are those of decided tokens unless said otherwise.

Shapes: ways `B K`, tokens `B N D`, decided `B M` (bool), futures `S B M D`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from ..data.datamodule import VideoDataModule
from ..data.scenes import FORKS, Labels, draw_labels, render
from ..data.transforms import centre
from ..energies.distances import distance
from ..energies.metrics import energy_gap
from ..errors import UserError
from ..randomness import LATENT, MASK, generator
from ..training.inference import Pair
from ..training.video_jepa import VideoJEPA
from .intervals import wilson
from .measure import Figures
from .probes import linear_probe

CLIPS: Final = 300
CHUNK: Final = 50
SAMPLES: Final = 64
DECIDED: Final = 8.0  # grey levels of 255 by which two ways differ, mean over a token


@dataclass(frozen=True)
class Forked:
    """Clips that come to a fork, with every way they could have gone.

    Attributes:
        video: `B K T C H W` uint8, one clip for each way.
        way: the one that was taken, `B`.
    """

    video: Tensor
    way: Tensor


def forked_clips(data: VideoDataModule, most: int = CLIPS) -> Forked:
    """The held-out forks of the embedded set that `data` draws, at the middle of each video.

    Raises:
        UserError: the data is not an embedded set with forks.
    """
    settings, clip = data.synthetic, data.settings
    if not data.embedded:
        raise UserError("the latent measure draws each way of a fork: data.root must be synthetic")
    labels = draw_labels(settings, "val")
    forked = [i for i, row in enumerate(labels) if row["event"] == "fork"][:most]
    if len(forked) < 20:
        raise UserError(
            "the latent measure needs 20 held-out forks or more: give data.synthetic.events "
            "[fork] and more data.synthetic.videos_val"
        )
    ways = list(FORKS[settings.fork_ways])
    offsets = clip.offsets(float(settings.fps))
    first = (settings.frames - 1 - offsets[-1]) // 2
    if first < 0:
        raise UserError(
            f"a clip of {offsets[-1] + 1} source frames does not fit in videos of "
            f"{settings.frames}: give a smaller data.stride or more data.synthetic.frames"
        )
    frames = [first + offset for offset in offsets]

    def drawn(index: int, way: str) -> Tensor:
        row: Labels = {**labels[index], "fork": way}
        return torch.from_numpy(render(settings, row, "val", index)[frames])

    video = torch.stack([torch.stack([drawn(i, way) for way in ways]) for i in forked])
    taken = torch.tensor([ways.index(labels[i]["fork"]) for i in forked])
    return Forked(video.movedim(-1, 3), taken)


def decided_tokens(video: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Tokens whose pixels depend on the way: `B K T C H W` uint8 to `B N`."""
    shades = video.float()
    spread = (shades.amax(1) - shades.amin(1)).mean(2)  # B T H W
    b, t, h, w = spread.shape
    if h % grid[1] or w % grid[2]:
        side = (grid[1] * (h // grid[1] + 1), grid[2] * (w // grid[2] + 1))
        spread = torch.nn.functional.interpolate(spread, side, mode="bilinear")
        h, w = side
    cells = spread.view(b, grid[0], t // grid[0], grid[1], h // grid[1], grid[2], w // grid[2])
    return cells.mean(dim=(2, 4, 6)).flatten(1) > DECIDED


@dataclass(frozen=True)
class Asked:
    """A chunk of forked clips as the module sees it.

    Attributes:
        pair: the context with the future that came true.
        futures: target tokens of every way, `K B M D`.
        decided: `B M`.
        way: the one that came true, `B`.
    """

    pair: Pair
    futures: Tensor
    decided: Tensor
    way: Tensor


def asked(module: VideoJEPA, clips: Forked) -> Iterator[Asked]:
    """Chunks of pairs; one mask group, the same for all ways."""
    device = next(module.parameters()).device
    for video, way in zip(
        torch.split(clips.video, CHUNK), torch.split(clips.way, CHUNK), strict=True
    ):
        video, way = video.to(device), way.to(device)
        views = [centre(video[:, k], module.encoder.image) for k in range(video.shape[1])]
        groups = module.masks(module.encoder.grid, len(way), generator(module.seed, MASK, 0))
        mask = groups[0].to(device)
        # Up to the fork all ways are the same clip, so the context of one is that of all.
        s_x = module.encoder(views[0], mask.context)
        ways = [module.paired(s_x, module.target(view), mask) for view in views]
        taken = torch.stack([pair.y for pair in ways])
        rows = torch.arange(len(way), device=device)
        whole = torch.stack([pair.whole for pair in ways])[way, rows]
        decided = decided_tokens(video, module.encoder.grid).gather(1, mask.target)
        seen = decided.any(dim=1)
        pair = Pair(s_x, taken[way, rows], mask, whole)
        yield Asked(pair, taken, decided | ~seen[:, None], way)  # a fork out of sight: all tokens


def decided_energy(module: VideoJEPA, y_hat: Tensor, y: Tensor, decided: Tensor) -> Tensor:
    """`E` over the decided tokens alone: `... B M D` twice and `B M` to `... B`."""
    each = distance(module.distance)(y_hat, y) * decided
    total: Tensor = each.sum(-1) / decided.sum(-1)
    return total


def covered_ways(module: VideoJEPA, futures: Tensor, chunk: Asked) -> Tensor:
    """Which ways of each clip some sampled future shows: `S B M D` to `B K`, boolean.

    A future shows a way if that is the way it is nearest to, and it is nearer to it than the mean
    of all ways is: that is what a prediction without z would say at its best.
    """
    to_way = torch.stack(
        [decided_energy(module, futures, y[None], chunk.decided) for y in chunk.futures], dim=-1
    )  # S B K
    mean = chunk.futures.mean(0)
    bland = torch.stack(
        [decided_energy(module, mean, y, chunk.decided) for y in chunk.futures], dim=-1
    )  # B K
    nearest = torch.nn.functional.one_hot(to_way.argmin(-1), to_way.shape[-1]).bool()
    return (nearest & (to_way < bland)).any(0)


def fork_figures(module: VideoJEPA, data: VideoDataModule, device: torch.device) -> Figures:
    """The columns of the study `latent`; those that need a z are missing without one."""
    clips = forked_clips(data)
    parts: dict[str, list[Tensor]] = {}
    for number, chunk in enumerate(asked(module, clips)):
        for name, values in _of_chunk(module, chunk, number).items():
            parts.setdefault(name, []).append(values.cpu())
    found = {name: torch.cat(values) for name, values in parts.items()}
    figures = {
        "fork_energy": found["energy"].mean().item(),
        "fork_energy_bland": found["bland"].mean().item(),
        "free_energy_auc": float(energy_gap(found["true"], found["shuffled"]).auc),
        "parameters": float(sum(p.numel() for p in module.predictor.parameters())),
    }
    if "z" in found:
        figures |= _of_z(found, clips.way)
    return figures


def _of_chunk(module: VideoJEPA, chunk: Asked, number: int) -> dict[str, Tensor]:
    """Figures of each clip of a chunk, `B ...`."""
    pair, draw = chunk.pair, generator(module.seed, LATENT, number)
    mean = chunk.futures.mean(0)
    found = {"bland": decided_energy(module, mean, pair.y, chunk.decided)}
    other = pair._replace(y=pair.y.roll(1, 0), whole=pair.whole.roll(1, 0))
    found["shuffled"] = module.free_energy(other, generator=draw)
    if not module.latent.dim:
        y_hat = module.predict(pair.s_x, pair.mask, None)
        found["energy"] = decided_energy(module, y_hat, pair.y, chunk.decided)
        return found | {"true": module.energy(y_hat, pair.y)}
    first = module.posterior(pair, generator(module.seed, LATENT, number))
    best = module.infer(pair, generator(module.seed, LATENT, number))
    told = {
        name: module.predict(pair.s_x, pair.mask, z)
        for name, z in (("posterior", first.z), ("energy", best.z))
    }
    found |= {n: decided_energy(module, y, pair.y, chunk.decided) for n, y in told.items()}
    found["true"], found["z"] = best.energy, best.z.flatten(1)
    found["no_worse"] = best.energy <= module.energy(told["posterior"], pair.y) + 1e-6
    found["bits"] = first.facts["latent/bits"].expand(len(pair.y))
    futures = module.sample_futures(pair, SAMPLES, draw)
    found["covered"] = covered_ways(module, futures, chunk)
    return found


def _of_z(found: dict[str, Tensor], way: Tensor) -> Figures:
    """What z holds: its price in bits, the ways it covers, and the way that is read off it."""
    half = len(way) // 2
    probe = linear_probe(found["z"][:half], way[:half], found["z"][half:], way[half:])
    covered = found["covered"].all(dim=1)
    return {
        "fork_energy_posterior": found["posterior"].mean().item(),
        "latent_bits": found["bits"].mean().item(),
        "ways_covered": covered.float().mean().item(),
        "ways_covered_low": wilson(float(covered.sum()), len(covered)).low,
        "way_probe": probe.accuracy,
        "argmin_no_worse": found["no_worse"].float().mean().item(),
    }
