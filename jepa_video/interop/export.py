"""Encoders in the forms that others load, each checked against the encoder before it is kept."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..data.transforms import MEAN, STD
from ..errors import UserError
from ..models.encoder import VideoEncoder, VideoViT
from ..models.predictor import MaskedPredictor
from .card import model_card
from .files import CONFIG, whole_folder
from .hugging_face import WEIGHTS as HF_WEIGHTS
from .hugging_face import obstacle, predictor_obstacle, to_hugging_face
from .weights import Branch, load_encoder, load_predictor, write_encoder

Format = Literal["safetensors", "hf", "torch-export", "onnx"]
PROGRAM: Final = "encoder.pt2"
ONNX: Final = "encoder.onnx"
CARD: Final = "README.md"
TOLERANCE: Final = 1e-3  # largest difference of a feature, as a share of the largest feature
_ONE_FILE = 1_500_000_000  # bytes; a file of ONNX holds two billion


class Exported(NamedTuple):
    """What `export` has written.

    Attributes:
        folder: where.
        files: their names.
        checked: how the result was compared with the encoder, and what came out, in words.
        notes: what else a user of the files has to know.
    """

    folder: Path
    files: list[str]
    checked: str
    notes: list[str]


class _Model(NamedTuple):
    """What is to be written, and notes on it that grow on the way."""

    path: Path
    encoder: VideoEncoder
    branch: Branch
    frames: int | None
    image: int | None
    notes: list[str]


def export(
    path: Path | str,
    to: Format,
    out: Path | str,
    branch: Branch = "online",
    licence: str | None = None,
    frames: int | None = None,
    image: int | None = None,
) -> Exported:
    """Write the encoder of `path` in another form, with a model card beside it.

    Args:
        path: what `load_encoder` takes.
        to: `safetensors` (and `config.json`, what `load_encoder` reads), `hf` (a folder of
            `transformers`' `VJEPA2Model`), `torch-export` (a program of `torch.export`), `onnx`.
        out: folder; files of an earlier export of the same form are replaced.
        branch: `online` or `target`.
        licence: of the weights, for the card.
        frames: as `load_encoder` takes it.
        image: likewise.

    Raises:
        UserError: nothing to load, the form cannot express the encoder, a package is missing, or
            the result is not the encoder; nothing is written then.
    """
    path, out = Path(path).expanduser(), Path(out).expanduser()
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; expected a folder to write to")
    encoder = load_encoder(path, branch, frames, image)
    model = _Model(path, encoder, branch, frames, image, [])
    with whole_folder(out) as draft:
        checked = _WRITERS[to](model, draft)
        card = model_card(path, encoder, to, branch, checked, model.notes, licence)
        (draft / CARD).write_text(card, encoding="utf-8")
        files = sorted(file.name for file in draft.iterdir())
    return Exported(out, files, checked, model.notes)


def _safetensors(model: _Model, draft: Path) -> str:
    write_encoder(model.encoder, draft, {"branch": model.branch})
    again = load_encoder(draft, model.branch)
    return _compared("load_encoder", model.encoder, again)


def _hugging_face(model: _Model, draft: Path) -> str:
    if (why := obstacle(model.encoder)) or not isinstance(model.encoder, VideoViT):
        raise UserError(
            f"{model.path} cannot be exported to hf: {why}; safetensors, torch-export and onnx "
            "take any encoder"
        )
    predictor, missing = _predictor(model)
    if missing:
        model.notes.append(
            f"The folder has no predictor ({missing}): call the model with skip_predictor=True."
        )
    entries, weights = to_hugging_face(model.encoder, predictor)
    (draft / CONFIG).write_text(json.dumps(entries, indent=2) + "\n")
    processor = {
        "video_processor_type": "VJEPA2VideoProcessor", "crop_size": model.encoder.image,
        "image_mean": list(MEAN), "image_std": list(STD),
    }  # fmt: skip
    (draft / "video_preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")
    save_file(weights, draft / HF_WEIGHTS, metadata={"format": "pt"})
    if find_spec("transformers") is None:
        return "not compared: transformers is not installed (pip install 'jepa-video[hf]')"
    transformers = import_module("transformers")
    transformers.logging.set_verbosity_error()  # a predictor that is missing is told in a note
    transformers.logging.disable_progress_bar()
    theirs = transformers.AutoModel.from_pretrained(draft).eval()
    return _compared(
        "transformers.AutoModel",
        model.encoder,
        lambda clip: theirs(clip.transpose(1, 2), skip_predictor=True).last_hidden_state,
    )


def _predictor(model: _Model) -> tuple[MaskedPredictor | None, str | None]:
    """The predictor, or None and the reason why it stays behind."""
    try:
        predictor = load_predictor(model.path, model.frames, model.image)
    except UserError as error:
        return None, str(error)
    why = predictor_obstacle(model.encoder, predictor)
    return (None, why) if why else (predictor, None)


def _torch_export(model: _Model, draft: Path) -> str:
    torch.export.save(_program(model.encoder), draft / PROGRAM)
    return _compared(
        "torch.export.load", model.encoder, torch.export.load(draft / PROGRAM).module()
    )


def _onnx(model: _Model, draft: Path) -> str:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(name) is None:
            raise UserError(f"export --to onnx needs {name}: pip install 'jepa-video[onnx]'")
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    size = sum(w.nbytes for w in model.encoder.state_dict().values())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about its own parts
        torch.onnx.export(
            _program(model.encoder),
            (),
            draft / ONNX,
            dynamo=True,
            input_names=["clip"],
            output_names=["tokens"],
            external_data=size > _ONE_FILE,
            verbose=False,
        )
    runtime = import_module("onnxruntime")
    session = runtime.InferenceSession(draft / ONNX, providers=["CPUExecutionProvider"])
    return _compared(
        "onnxruntime",
        model.encoder,
        lambda clip: torch.from_numpy(session.run(None, {"clip": clip.numpy()})[0]),
    )


def _program(encoder: VideoEncoder) -> torch.export.ExportedProgram:
    """The encoder of whole clips as a graph, for any number of clips."""
    shapes = {"clip": {0: torch.export.Dim("batch")}}
    with torch.no_grad():
        return torch.export.export(encoder, (_clip(encoder, 3),), dynamic_shapes=shapes)


def _clip(encoder: VideoEncoder, batch: int) -> Tensor:
    """Noise as large as a normalised clip, the same each time: `B C T H W`."""
    channels = int(encoder.config.get("channels", 3))
    shape = (batch, channels, encoder.frames, encoder.image, encoder.image)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def _compared(reader: str, encoder: VideoEncoder, again: Callable[[Tensor], Any]) -> str:
    """The largest difference of features over one and over two clips, or a refusal."""
    worst = scale = 0.0
    for batch in (1, 2):
        clip = _clip(encoder, batch)
        expected = encoder(clip)
        worst = max(worst, float((again(clip) - expected).abs().max()))
        scale = max(scale, float(expected.abs().max()))
    if not worst <= TOLERANCE * scale:
        raise UserError(
            f"what {reader} reads differs from the encoder by up to {worst:.1e} in features of up "
            f"to {scale:.1f}: nothing is written"
        )
    return f"read by {reader}, largest difference {worst:.1e} in features of up to {scale:.1f}"


_WRITERS: Final[dict[str, Callable[[_Model, Path], str]]] = {
    "safetensors": _safetensors,
    "hf": _hugging_face,
    "torch-export": _torch_export,
    "onnx": _onnx,
}
