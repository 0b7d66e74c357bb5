"""The model card that lies beside exported weights: data, config, figures, licence."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import yaml  # type: ignore[import-untyped]

from ..data.transforms import MEAN, STD
from ..errors import UserError
from ..evaluation.runfiles import RunFiles, read_run
from ..models.encoder import VideoEncoder

_LOAD: Final = {
    "safetensors": """\
import torch
from jepa_video import load_encoder

encoder = load_encoder("FOLDER")  # this folder
with torch.no_grad():
    tokens = encoder(clip)  # B C T H W, normalised -> B N D""",
    "hf": """\
import torch
from transformers import AutoModel

model = AutoModel.from_pretrained("FOLDER")  # this folder
with torch.no_grad():  # B T C H W, normalised -> B N D
    tokens = model(clip, skip_predictor=True).last_hidden_state""",
    "torch-export": """\
import torch

encoder = torch.export.load("FOLDER/encoder.pt2").module()  # this folder
with torch.no_grad():
    tokens = encoder(clip)  # B C T H W, normalised -> B N D""",
    "onnx": """\
import onnxruntime

session = onnxruntime.InferenceSession("FOLDER/encoder.onnx")  # this folder
(tokens,) = session.run(None, {"clip": clip})  # float32 B C T H W, normalised -> B N D""",
}
_VIEWS: Final = {  # of the table of probes: entry of the summary, heading
    "probe_top1": "this", "probe_top1_untrained": "untrained", "probe_top1_pixels": "pixels",
    "probe_top1_motion": "motion by hand", "chance": "chance",
}  # fmt: skip
_FIGURES: Final = {
    "rankme": "RankMe", "energy_gap": "energy gap", "energy_gap_stderr": "its standard error",
    "steps": "steps", "seed": "seed",
}  # fmt: skip
_DATA: Final = ("frames", "stride", "fps", "size", "batch_size", "val_fraction")


def model_card(
    path: Path,
    encoder: VideoEncoder,
    to: str,
    branch: str,
    checked: str,
    notes: Sequence[str] = (),
    licence: str | None = None,
) -> str:
    """The text of the card, Markdown with the header that model hubs read.

    Args:
        path: where the encoder came from; a run's settings and figures are told.
        encoder: as exported.
        to: the form.
        branch: `online` or `target`.
        checked: how the files were compared with the encoder.
        notes: what else a user has to know.
        licence: of the weights; where it is not given, the card says that it is not.
    """
    run = _run(path)
    name = run.folder.name if run else path.stem
    library = "transformers" if to == "hf" else "jepa_video"
    header = {
        "license": licence or "unknown", "library_name": library,
        "tags": ["video", "jepa", "self-supervised", "feature-extraction"],
    }  # fmt: skip
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---",
        f"# {name}",
        _what(encoder, branch, to, checked),
        *notes,
        f"```python\n{_LOAD[to]}\n```",
        _input(encoder),
        "## Data\n\n" + (_data(run) if run else _unknown(path, "its data")),
        "## Config\n\n" + _config(encoder, run),
        "## Figures\n\n" + (_figures(run) if run else _unknown(path, "its figures")),
        "## Licence\n\n" + _licence(licence),
    ]
    return "\n\n".join(parts) + "\n"


def _run(path: Path) -> RunFiles | None:
    try:
        return read_run(path)
    except UserError:
        return None


def _what(encoder: VideoEncoder, branch: str, to: str, checked: str) -> str:
    count = sum(weight.numel() for weight in encoder.parameters()) / 1e6
    kind = "the slow average of an encoder" if branch == "target" else "an encoder"
    return (
        f"{type(encoder).__name__}, {kind} of video trained without labels "
        f"(joint-embedding predictive architecture), {count:.1f} M parameters. "
        f"Form: {to}, {checked}."
    )


def _input(encoder: VideoEncoder) -> str:
    t, h, w = encoder.grid
    return (
        f"Input: {encoder.frames} frames of {encoder.image} x {encoder.image} pixels, RGB from 0 "
        f"to 1, minus {list(MEAN)}, divided by {list(STD)}. Output: {t} x {h} x {w} tokens of "
        f"width {encoder.width}, time first."
    )


def _unknown(path: Path, what: str) -> str:
    return f"The weights were read from `{path.name}`, which does not tell {what}."


def _settings(run: RunFiles) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(run.config or "")
    except yaml.YAMLError:
        return {}
    return settings if isinstance(settings, dict) else {}


def _data(run: RunFiles) -> str:
    """The set by its last name alone: the rest of the path is nobody's business."""
    data = _settings(run).get("data") or {}
    named = Path(str(data.get("root") or data.get("train") or "unknown")).name
    lines = [f"* set: {named}"]
    summary = run.summary or {}
    for key, told in (("videos", "videos for training"), ("unreadable", "unreadable files")):
        lines += [f"* {told}: {summary[key]}"] if key in summary else []
    return "\n".join([*lines, *(f"* {key}: {data[key]}" for key in _DATA if data.get(key))])


def _config(encoder: VideoEncoder, run: RunFiles | None) -> str:
    text = f"```json\n{json.dumps(encoder.config, indent=2)}\n```"
    model = _settings(run).get("model") if run else None
    if not model:
        return text
    dumped = yaml.safe_dump({"model": model}, sort_keys=False)
    return f"{text}\n\nThe whole training module:\n\n```yaml\n{dumped}```"


def _figures(run: RunFiles) -> str:
    """What the run measured on held-out videos, beside its baselines."""
    summary = run.summary or {}
    lines = [f"* {told}: {_told(summary[k])}" for k, told in _FIGURES.items() if k in summary]
    lines += [f"* {summary['verdict']}"] if summary.get("verdict") else []
    labels = summary.get("labels")
    if isinstance(labels, dict) and labels:
        head = "| label | " + " | ".join(_VIEWS.values()) + " |"
        rows = [
            f"| {label} | " + " | ".join(_share(row.get(key)) for key in _VIEWS) + " |"
            for label, row in labels.items()
        ]
        rule = "|---" * (1 + len(_VIEWS)) + "|"
        lines += ["", "Linear probe on frozen features, held-out videos, top-1 in %:", ""]
        lines += [head, rule, *rows]
    return "\n".join(lines) or "The run was not measured."


def _told(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _share(value: Any) -> str:
    return f"{100 * value:.1f}" if isinstance(value, int | float) else "-"


def _licence(licence: str | None) -> str:
    if licence:
        return f"The weights: {licence}. The code that made them: Apache-2.0."
    return (
        "Not stated. Who shares the weights decides, within what the training data and the weights "
        "that they started from allow. The code that made them: Apache-2.0."
    )
