"""`jepa-video VERB`: finds the verb and turns bad input into one sentence and exit code 2.

Each verb is a module of this package with `HELP` and `run(arguments) -> exit code`, imported when
it is called: help answers at once, without torch.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module

from .. import __version__
from ..errors import UserError

VERBS = {
    "pretrain": "train a video JEPA on video files; without options on an embedded set",
    "collect": "play episodes of an environment into a dataset of video and actions",
    "probe": "say what frozen encoders know about labels, beside what they have to beat",
    "prepare": "check, index, re-encode and split a dataset or a folder of videos",
    "embed": "write the features of many videos into one file, resumable",
    "world": "learn from episodes what actions do: a world model to plan with",
    "finetune": "train a pretrained encoder on labels: all of it, its last blocks, or adapters",
    "diagnose": "say without labels what state an encoder is in, on one page",
    "study": "train the rows of a comparison and write one table and one page",
    "export": "write an encoder for transformers, ONNX, torch.export or load_encoder",
    "agent": "play policies and agents in environments and measure what they reach",
    "bench": "measure planners, or environments, against what is asked of them in one run",
    "report": "write report.html of a run anew",
    "doctor": "say what is installed, whether a run would work, and what to mend",
}


EXTRAS = {"gymnasium": "control", "pyarrow": "control"}  # packages of verbs that act
# What a disk says where no line of ours is wrong.
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO, errno.ENAMETOOLONG}


def help_text() -> str:
    """What `jepa-video --help` prints."""
    verbs = "\n".join(f"  {verb:<10} {told}" for verb, told in VERBS.items())
    return (
        "usage: jepa-video VERB [options]\n\n"
        "Learn a world model from video by self-supervision.\n\n"
        f"{verbs}\n\n"
        "  jepa-video VERB --help    the options of a verb\n"
        "  jepa-video --version\n"
    )


def share_cores() -> None:
    """Let threads that wait for one another give the core away soon; before torch is loaded.

    Symptom: beside another busy program the default run takes two hours in place of some minutes.
    Why: a small layer is cut into one part for each core. The thread that is done first spins until
    the last is, on the very core that the last one waits for.
    Fix: spin for a twentieth of a millisecond, then sleep. Measured on 2 cores, the default step:
    0.4 a second became 2.3 to 6.4 beside busy programs, 15.2 became 14.0 on an idle machine.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script.

    Returns:
        0 when all went well, 1 where disk or memory do not suffice, 2 for bad input, 130 after
        Ctrl-C, 143 after SIGTERM.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    verb = words[0] if words else "--help"
    if verb in ("-h", "--help", "help"):
        print(help_text(), end="")
        return 0
    if verb == "--version":
        print(f"jepa-video {__version__}")
        return 0
    share_cores()
    try:
        return _run(verb, words[1:])
    except UserError as error:
        print(f"jepa-video: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        extra = f"pip install 'jepa-video[{EXTRAS[error.name]}]'"
        print(f"jepa-video: {verb} needs {error.name}: {extra}", file=sys.stderr)
        return 2
    except Exception as error:
        if (told := lacking(error)) is None:
            raise
        print(f"jepa-video: {told}", file=sys.stderr)
        return 1


def lacking(error: Exception) -> str | None:
    """A sentence where an error says that disk or memory do not suffice; None for all others."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno in _DISK:
        place = error.filename2 or error.filename
        return f"cannot read or write {place or 'a file'}: {error.strerror}"
    # What torch.save and safetensors say of a full disk.
    if "PytorchStreamWriter failed writing" in text or "No space left on device" in text:
        return f"cannot write weights, is the disk full? ({text[:100]})"
    short = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if short or "can't allocate memory" in text:
        return (
            "out of memory: a smaller data.batch_size, data.size or model needs less, "
            f"--model.encoder.checkpointing true too ({text[:100]})"
        )
    return None


def _run(verb: str, words: list[str]) -> int:
    if verb not in VERBS:
        near = get_close_matches(verb, VERBS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"there is no verb {verb!r} (expected one of {', '.join(VERBS)}){hint}")
    room = import_module(f".{verb}", __name__)
    if words and words[0] in ("-h", "--help"):
        print(room.HELP, end="")
        return 0
    code: int = room.run(words)
    return code
