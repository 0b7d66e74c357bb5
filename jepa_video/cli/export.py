"""`jepa-video export`: an encoder in the form that others load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import UserError

HELP = """\
usage: jepa-video export PATH --to FORMAT [--OPTION VALUE ...]

Writes an encoder in another form, compares what it wrote with the encoder, and puts a model card
beside it (README.md: data, config, figures, licence).

  PATH                      a run, an export, a checkpoint; also a checkpoint of V-JEPA 2's authors
                            or a Hugging Face folder
  --to safetensors          encoder.safetensors and config.json, what load_encoder reads
  --to hf                   a folder for transformers.AutoModel; needs --model.encoder.rotary vjepa2
                            in the run, since VJEPA2Model knows no other positions
  --to torch-export         encoder.pt2, a program of torch.export
  --to onnx                 encoder.onnx; needs pip install 'jepa-video[onnx]'
  --out DIR                 where to; a run's default is RUN/export/FORMAT
  --branch B                online (default) or target, the slow average
  --licence NAME            of the weights, for the card
  --frames N, --image N     another size of clip, where the weights fit any
"""


def run(words: list[str]) -> int:
    """Read the options, write, say what was written and how it was checked."""
    from ..training.pretrain import quiet
    from .options import parse

    if not words or words[0].startswith("-"):
        raise UserError("export needs what to export, as in: jepa-video export runs/NAME --to hf")
    path = Path(words[0]).expanduser()
    config = parse(_parser(), words[1:])
    if config.to is None:
        raise UserError("export needs --to: one of safetensors, hf, torch-export, onnx")
    if config.out is None and path.exists() and not (path / "config.yaml").exists():
        raise UserError(f"export needs --out, a folder to write to: {path} is not a run")
    from ..interop.export import export

    quiet()
    done = export(
        path,
        config.to,
        config.out or path / "export" / config.to,
        branch=config.branch,
        licence=config.licence,
        frames=config.frames,
        image=config.image,
    )
    print(f"{done.folder}: {', '.join(done.files)}")
    print(done.checked)
    for note in done.notes:
        print(note)
    return 0


def _parser() -> Any:
    from typing import Literal

    from jsonargparse import ArgumentParser

    from ..interop.export import Format

    parser = ArgumentParser(prog="jepa-video export", exit_on_error=False, add_help=False)
    parser.allow_abbrev = False
    parser.add_argument("--to", type=Format | None, help="the form")
    parser.add_argument("--out", type=str | None, help="folder to write to")
    parser.add_argument("--branch", type=Literal["online", "target"], default="online")
    parser.add_argument("--licence", type=str | None, help="of the weights")
    parser.add_argument("--frames", type=int | None, help="of a clip")
    parser.add_argument("--image", type=int | None, help="height and width in pixels")
    return parser
