"""The options of a training: typed constructor arguments, a config file, and errors as sentences.

Every default lives once, in a signature. What a file or the command line says and nobody reads is
an error.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from argparse import ArgumentError
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import yaml  # type: ignore[import-untyped]
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import Trainer

from ..data.datamodule import VideoDataModule
from ..errors import UserError
from ..evaluation.probing import ProbeSettings
from ..models import conv, timm_encoder  # noqa: F401  encoders that can be named by their class
from ..training.pretrain import CheckpointSettings, WatchSettings
from ..training.run import Run, open_run
from ..training.video_jepa import VideoJEPA

STEPS = 2400  # of the default recipe
_WHOSE = "all settings of a run of"  # how the first line of a run's settings begins
_FORMS = {  # of options that are more than one value
    "cost": "{goal: 1, effort: 0.5}",
    "search": "{horizon: 5, samples: 64}",
    "zones": "[{low: [8, 30], high: [20, 45]}]",
    "watched": "[{low: [8, 30], high: [20, 45]}]",
}
OWNED = {  # what a run decides for itself
    "logger", "callbacks", "default_root_dir", "enable_checkpointing", "enable_progress_bar",
    "enable_model_summary", "use_distributed_sampler", "fast_dev_run", "barebones",
    "enable_autolog_hparams", "model_registry", "reload_dataloaders_every_n_epochs",
    "overfit_batches", "inference_mode", "limit_test_batches", "limit_predict_batches",
}  # fmt: skip
# A resumed run keeps what decides its numbers; where and how it runs may change.
FREE = (
    "config", "resume", "name", "runs", "encoder", "checkpoint", "world", "wandb", "tensorboard",
    "checkpoint.", "checkpoints.", "watch.", "probe.", "data.root", "data.train", "data.val",
    "data.workers", "data.cache_mb", "rounds.workers",
    "data.timeout", "data.check", "data.unreadable_limit", "data.missing", "trainer.max_steps",
    "trainer.max_epochs", "trainer.max_time", "trainer.accelerator", "trainer.devices",
    "trainer.num_nodes", "trainer.strategy", "trainer.profiler", "trainer.plugins",
    "trainer.log_every_n_steps",
)  # fmt: skip


def build_parser() -> ArgumentParser:
    """Every option of `pretrain`."""
    parser = run_parser("pretrain")
    parser.add_argument("--init", type=str | None, help="weights to start from, as load_encoder")
    parser.add_class_arguments(VideoJEPA, "model")
    add_room_options(parser)
    parser.add_class_arguments(ProbeSettings, "probe")
    parser.set_defaults({"trainer.max_steps": STEPS})
    return parser


def parser_for(words: Sequence[str]) -> ArgumentParser:
    """The options of `pretrain`, with the defaults of the classes that `words` name."""
    parser = build_parser()
    own_defaults(parser, words)
    return parser


def run_parser(verb: str) -> ArgumentParser:
    """A parser with the options of every run."""
    parser = ArgumentParser(prog=f"jepa-video {verb}", exit_on_error=False, add_help=False)
    parser.allow_abbrev = False  # a key that is misspelt is an error, not another key
    parser.add_argument("--config", action="config", help="YAML file with any of these options")
    parser.add_argument("--resume", type=str | None, help="run folder to go on with")
    parser.add_argument("--name", type=str | None, help="name of the run; date and time if None")
    parser.add_argument("--runs", type=str, default="runs", help="folder of all runs")
    parser.add_argument("--seed", type=int, default=0, help="of weights, data, masks and the rest")
    modes = Literal["offline", "online", "off"] | None
    parser.add_argument("--wandb", type=modes, help="experiment log; WANDB_MODE, else offline")
    parser.add_argument("--tensorboard", type=bool, default=False, help="write a TensorBoard log")
    return parser


def add_room_options(
    parser: ArgumentParser,
    data: type[Any] = VideoDataModule,
    learner: str = "model",
    saving: str = "checkpoint",
) -> None:
    """Data, Trainer, checkpoints and watching; comes after the `learner`, which shares the seed."""
    parser.add_class_arguments(data, "data")
    parser.add_class_arguments(Trainer, "trainer", skip=OWNED, instantiate=False)
    parser.add_class_arguments(CheckpointSettings, saving)
    parser.add_class_arguments(WatchSettings, "watch")
    parser.link_arguments("seed", f"{learner}.seed")
    parser.link_arguments("seed", "data.seed")
    parser.set_defaults(
        {
            "trainer.gradient_clip_val": 1.0,
            "trainer.log_every_n_steps": 10,
            "trainer.limit_val_batches": 0,
            "trainer.num_sanity_val_steps": 0,
        }
    )


def parse(parser: ArgumentParser, words: Sequence[str]) -> Namespace:
    """The options in `words`.

    Raises:
        UserError: one sentence on the option that is wrong.
    """
    for word in words:
        if re.match(r"-(?![-.\d])", word):  # a negative number is a value
            raise UserError(f"options start with two dashes, got {word}")
    for file in _files(words):
        if (verb := verb_of(Path(file))) not in (None, parser.prog):
            raise UserError(f"{file} has the settings of a run of {verb}, not of {parser.prog}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Asked for before a file is read, it would print what is in the file and no more.
            return parser.parse_args(sorted(words, key=_asks_for_all))
    except ArgumentError as error:
        raise UserError(_of_file(words, sentence(str(error), parser))) from error
    except UnicodeDecodeError as error:
        raise UserError(_of_file(words, "Problems parsing config: not a text file")) from error
    except (TypeError, ValueError) as error:
        raise UserError(" ".join(str(error).split())) from error


def _asks_for_all(word: str) -> bool:
    return word.partition("=")[0] == "--print_config"


def own_defaults(parser: ArgumentParser, words: Sequence[str]) -> None:
    """Let a class that `words`, or files that they name, choose begin with its own defaults.

    Without this it keeps those of the class before it, as far as their arguments share a name: the
    width of a small encoder for a large one.
    """
    for name, value in [*_chosen(words)]:
        default = parser.get_defaults().get(name)
        if _is_class(default) and value.split(".")[-1] != default.class_path.split(".")[-1]:
            parser.set_defaults({name: value})
            if not _is_class(parser.get_defaults().get(name)):
                parser.set_defaults({name: default})  # no class: it is said when it is parsed


def _chosen(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Names of options, and the classes that files and then words may choose for them."""
    for file in filter(os.path.isfile, _files(words)):  # a pipe can be read once
        try:
            told = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):  # the parser says what is wrong with it
            continue
        yield from _classes(told, "")
    for word, after in zip(words, [*words, ""][1:], strict=True):
        name, _, value = word.removeprefix("--").partition("=")
        if word.startswith("--"):
            yield name, value or after


def _classes(told: Any, name: str) -> Iterator[tuple[str, str]]:
    """What may be classes in settings that are told below `name`."""
    if isinstance(told, str):
        yield name, told
    elif isinstance(told, dict) and isinstance(told.get("class_path"), str):
        yield name, told["class_path"]
    elif isinstance(told, dict):
        for key, part in told.items():
            yield from _classes(part, f"{name}.{key}" if name else str(key))


def _is_class(default: Any) -> bool:
    return isinstance(default, Namespace) and "class_path" in default


def parse_resumed(parser: ArgumentParser, words: Sequence[str], path: str) -> tuple[Run, Namespace]:
    """The run in `path` and its own options, with the changes in `words` that a run may make."""
    run = open_run(Path(path))
    if (verb := verb_of(run.config)) not in (None, parser.prog):
        raise UserError(f"{path} is a run of {verb}: it goes on with {verb} --resume {path}")
    try:
        saved = parse(parser, ["--config", str(run.config)])
    except UserError as error:
        if str(run.config) in str(error):
            raise
        raise UserError(f"{run.config}: {error}") from error
    asked = parse(parser, ["--config", str(run.config), *words])
    before, after = flat(parser, saved), flat(parser, asked)
    for key in after.keys() | before.keys():
        if before.get(key) != after.get(key) and not may_change(key):
            raise UserError(
                f"--{key} cannot change in a resumed run ({before.get(key)} there, "
                f"{after.get(key)} asked for); start a new run instead"
            )
    return run, asked


def may_change(key: str) -> bool:
    """Whether an option, or what stands below its name, may change in a resumed run."""
    return any(key == name or key.startswith(f"{name.rstrip('.')}.") for name in FREE)


def head_of(prog: str) -> str:
    """The first line of a run's settings: whose they are."""
    return f"# {_WHOSE} {prog}\n"


def verb_of(config: Path) -> str | None:
    """Which command's run a file has the settings of; None where it does not say."""
    if not config.is_file():  # a pipe can be read once
        return None
    try:
        with config.open(encoding="utf-8") as lines:
            first = lines.readline()
    except (OSError, UnicodeDecodeError):  # the parser says what is wrong with it
        return None
    found = re.fullmatch(rf"# {_WHOSE} (jepa-video[a-z ]+)\n", first)
    return found[1] if found else None


def flat(parser: ArgumentParser, config: Namespace) -> dict[str, Any]:
    """Every option by its dotted name, as plain values."""
    plain: dict[str, Any] = {}

    def walk(value: Any, name: str) -> None:
        if isinstance(value, dict) and value:
            for key, part in value.items():
                walk(part, f"{name}.{key}" if name else str(key))
        else:
            plain[name] = value

    walk(json.loads(parser.dump(config, format="json")), "")
    return plain


def sentence(text: str, parser: ArgumentParser) -> str:
    """One sentence from what the parser says over several lines."""
    names = [name for action in parser._actions for name in action.option_strings]
    if found := re.search(r"unrecognized arguments: (\S+)", text):
        name = found[1].split("=")[0]
        if not name.startswith("-"):
            return f"there is no place for the word {name!r}; options have the form --NAME VALUE"
        return f"there is no option {name}{_near(name, names)}"
    keys = re.findall(r'Parser key "([^"]+)":', text)
    if keys and (found := re.search(r"Option '(\S+)' is not accepted", text)):
        return f"there is no option '{keys[-1]}.{found[1]}'"
    if found := re.search(r"(?:Group '(\S+)' does not accept option|Option) '(\S+)'", text):
        key = ".".join(part for part in found.groups() if part)
        return f"there is no option {key!r}{_near('--' + key, names)}"
    rest = re.split(r'Parser key "[^"]+":', text)[-1]
    told = _plain(" ".join(rest.split()))
    keys = [
        k for i, k in enumerate(keys) if not any(f"{x}.".startswith(f"{k}.") for x in keys[i + 1 :])
    ]
    form = keys and keys[-1] in _FORMS and not re.match("expected one of|a zone has", told)
    if form:
        told = f"expected the form '{_FORMS[keys[-1]]}'" + "".join(re.findall(r", got '.*'$", told))
    told = told if len(told) <= 300 else told[:297] + "..."
    return f"{'.'.join(keys)}: {told}" if keys else told


def _of_file(words: Sequence[str], told: str) -> str:
    """The sentence with the file's name, where it is about a file that is no settings."""
    if found := re.match(r"(Problems parsing config|Unexpected config): ", told):
        return f"{' or '.join(_files(words))} is not a YAML file of settings: {told[found.end() :]}"
    return told


def _files(words: Sequence[str]) -> list[str]:
    """The files of settings that are named."""
    pairs = zip(words, [*words, ""][1:], strict=True)
    files = [after for word, after in pairs if word == "--config"]
    return files + [word.partition("=")[2] for word in words if word.startswith("--config=")]


def _near(name: str, names: Sequence[str]) -> str:
    """The option that was meant; one that does not say where it belongs has to be close."""
    names = [known for known in names if not known.endswith(".help")]
    near = get_close_matches(name, names, 1, 0.75 if "." in name else 0.85)
    return f"; did you mean {near[0]}?" if near else ""


def _plain(text: str) -> str:
    """The parser's words without its types."""
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text)
    after = r"'?\.?(?: Got value.*| - Expected .*)?$"
    value = re.search(rf"(?:Got value|Given value): (.*?){after}", text)
    choices = re.findall(r"Literal\[([^\]]+)\]", text)
    kind = re.search(r"Expected a (?!NoneType)(\w+)", text)
    if found := re.search(r"Expected a dot import path string: (.*)", text):
        return f"there is no class {found[1]!r}; expected a name such as jepa_video.VideoViT"
    if value and choices:
        return f"expected one of {choices[0]}, got {value[1]!r}"
    return f"expected a value of type {kind[1]}, got {value[1]!r}" if value and kind else text
