"""Whether a run would work on this machine: each thing is tried, and the mend stands beside it."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

State = Literal["good", "note", "fails"]
MARKS = {"good": "ok   ", "note": "note ", "fails": "FAILS"}
NEEDED = (  # where the package's own metadata is not installed
    "torch", "torchvision", "lightning", "jsonargparse", "torchdata", "timm", "av", "decord",
    "numpy", "safetensors", "rich", "pillow", "wandb",
)  # fmt: skip
ENOUGH_GB = 2.0  # of a small run with checkpoints, report and the embedded set


@dataclass(frozen=True)
class Finding:
    """One thing that was tried.

    Args:
        what: its name.
        state: `good`; `note` for what a run can do without; `fails` for what it cannot.
        told: what was found.
        mend: what to do about it; empty where nothing need be done.
    """

    what: str
    state: State
    told: str
    mend: str = ""


def examine() -> list[Finding]:
    """Everything, in the order in which a person would mend it."""
    checks: list[Callable[[], list[Finding]]] = [
        interpreter, packages, devices, decoders, step, wandb_state, disks
    ]  # fmt: skip
    return [finding for check in checks for finding in _careful(check)]


def printed(findings: list[Finding]) -> str:
    """The findings as lines, and the verdict."""
    lines = []
    for finding in findings:
        lines.append(f"{MARKS[finding.state]}  {finding.what:<18} {finding.told}")
        if finding.mend:
            lines.append(f"       {'':<18} -> {finding.mend}")
    broken = [finding.what for finding in findings if finding.state == "fails"]
    lines.append("")
    if broken:
        lines.append(f"A run would not work yet: {', '.join(broken)}.")
    else:
        lines.append("A run would work: jepa-video pretrain")
    return "\n".join(lines)


def _careful(check: Callable[[], list[Finding]]) -> list[Finding]:
    """A check that itself breaks has found something too."""
    try:
        return check()
    except Exception as error:
        return [
            Finding(check.__name__, "fails", f"{type(error).__name__}: {error}".splitlines()[0])
        ]


def interpreter() -> list[Finding]:
    """Python and the machine."""
    told = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    told += f", {cpus} CPU cores"
    return [Finding("python", "good", told)]


def packages() -> list[Finding]:
    """Required and optional packages, with versions."""
    from packaging.requirements import Requirement

    found = []
    try:
        wanted = [Requirement(line) for line in requires("jepa-video") or []]
        found.append(Finding("jepa-video", "good", version("jepa-video")))
    except PackageNotFoundError:
        wanted = [Requirement(name) for name in NEEDED]
        told = "not installed; it runs from its own folder alone"
        found.append(Finding("jepa-video", "note", told, "pip install . in the project's folder"))
    for need in wanted:
        if need.marker is None or need.marker.evaluate({"extra": ""}):
            found.append(_package(need.name, str(need.specifier), need.specifier.contains))
    there = _version("tensorboard")
    told = there or "not installed (optional, for --tensorboard true)"
    return [*found, Finding("tensorboard", "good" if there else "note", told)]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _package(name: str, wanted: str, fits: Callable[..., bool]) -> Finding:
    there = _version(name)
    optional = name in ("decord", "wandb")  # a run goes on without them
    bad: State = "note" if optional else "fails"
    if not there:
        return Finding(name, bad, "not installed", f"pip install '{name}{wanted}'")
    if not fits(there, prereleases=True):
        return Finding(name, bad, f"{there}, outside {wanted}", f"pip install '{name}{wanted}'")
    return Finding(name, "good", there)


def devices() -> list[Finding]:
    """The devices that torch sees, each with a sum that was really computed there."""
    import torch

    found = [_device("cpu", f"{torch.get_num_threads()} threads")]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        told = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
        found.append(_device(f"cuda:{index}", told))
    if torch.backends.mps.is_available():
        found.append(_device("mps", "Apple GPU"))
    if len(found) == 1 and shutil.which("nvidia-smi") and torch.version.cuda is None:
        mend = "install a torch build with CUDA: https://pytorch.org/get-started"
        found.append(
            Finding("gpu", "note", "there is an NVIDIA driver, torch is a CPU build", mend)
        )
    return found


def _device(name: str, told: str) -> Finding:
    import torch

    try:
        x = torch.eye(64, device=name)
        right = float((x @ x).sum()) == 64
    except RuntimeError as error:
        right, told = False, str(error).splitlines()[0]
    if right:
        return Finding(name, "good", told)
    state: State = "fails" if name == "cpu" else "note"
    return Finding(name, state, told, "use --trainer.accelerator cpu, or mend the driver")


def decoders() -> list[Finding]:
    """Each decoder reads a small video that is made here."""
    import numpy as np

    from .data.decode import read_clip
    from .data.encode import write_video

    frames = np.zeros((8, 64, 64, 3), np.uint8)
    frames[:, :, :] = (np.arange(8) * 30)[:, None, None, None]  # each frame has its own grey
    found = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "grey.mp4"
        write_video(path, frames, 8)
        for name, package in (("decord", "decord"), ("pyav", "av")):
            try:
                clip = read_clip(str(path), [1, 6], backend=name)
                right = abs(clip.mean(axis=(1, 2, 3)) - (30, 180)).max() < 8
                told = "reads a test video" if right else "reads other frames than asked for"
            except Exception as error:
                right, told = False, f"{type(error).__name__}: {error}".splitlines()[0]
            state: State = "good" if right else "fails" if name == "pyav" else "note"
            mend = "" if right else f"pip install --force-reinstall {package}"
            if not right and name == "decord":
                mend += " (where it has wheels; PyAV does its work meanwhile)"
            found.append(Finding(name, state, told, mend))
    return found


def step() -> list[Finding]:
    """One forward and backward pass of the default model."""
    import torch

    from .training.video_jepa import VideoJEPA

    module = VideoJEPA()
    encoder = module.encoder
    shape = (4, encoder.frames, 3, encoder.image, encoder.image)
    video = torch.randint(256, shape, dtype=torch.uint8)
    clip, masks = module.draw(video)
    tokens = encoder(clip, masks[0].context)
    tokens.sum().backward()
    return [
        Finding("model", "good", f"one pass of the default encoder, {encoder.num_tokens} tokens")
    ]


def wandb_state() -> list[Finding]:
    """What the experiment log would do."""
    if not _version("wandb"):
        return [Finding("wandb", "note", "not installed: runs go without it", "pip install wandb")]
    mode = os.environ.get("WANDB_MODE", "offline")
    known = ("offline", "online", "disabled", "off")
    if mode not in known:
        told = f"WANDB_MODE is {mode!r}: taken as offline"
        return [Finding("wandb log", "note", told, f"set it to one of {', '.join(known)}")]
    try:
        import wandb
    except Exception as error:
        told = f"does not import ({type(error).__name__}): runs go without it"
        return [Finding("wandb log", "note", told, "pip install --upgrade wandb")]
    told = f"wandb {wandb.__version__}: {mode}"
    if mode == "offline":
        told += ", into the run folder; no account and no network needed"
    return [Finding("wandb log", "good", told)]


def disks() -> list[Finding]:
    """Room for runs here and for the embedded set in the cache."""
    from .data.once import cache_folder

    return [
        _room("disk", Path.cwd(), "--runs DIR"),
        _room("cache", cache_folder(), "XDG_CACHE_HOME"),
    ]


def _room(what: str, folder: Path, setting: str) -> Finding:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free / 1e9
    told = f"{free:.0f} GB free in {folder}"
    if not os.access(there, os.W_OK):
        return Finding(
            what, "fails", f"{there} cannot be written to", f"choose another by {setting}"
        )
    if free < ENOUGH_GB:
        mend = f"free some, or choose another place by {setting}"
        return Finding(what, "fails" if free < 0.2 else "note", told, mend)
    return Finding(what, "good", told)
