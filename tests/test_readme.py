"""What the README says to type is accepted, its Python runs, and its links lead somewhere."""

import re
import shlex
from importlib import import_module
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from jepa_video import VideoViT, save_encoder
from jepa_video.cli import VERBS
from jepa_video.cli.options import build_parser, parse
from jepa_video.data.encode import write_video
from jepa_video.errors import UserError
from tests.agent.tiny_agent import save_tiny_agent

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "configs" / "pretrain" / "README.md", ROOT / "data/README.md"]
TEXT = PAGES[0].read_text()
HELP = {"--help", "--help-all", "--print_config"}


def blocks(language: str, text: str = TEXT) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    """The words after `jepa-video` of every line of code, in blocks and in running text."""
    lines = [
        line for page in PAGES for line in re.findall(r"`(jepa-video[^`\n]+)`", page.read_text())
    ]
    shown = [block for page in PAGES for block in blocks("bash", page.read_text())]
    lines += "\n".join(shown).replace("\\\n", " ").splitlines()
    lines += re.findall(r"^    (jepa-video .*)$", PAGES[1].read_text(), re.MULTILINE)
    lines += [
        m
        for p in (ROOT / "configs").rglob("*.yaml")
        for m in re.findall(r"^# +(jepa-video .*)$", p.read_text(), re.MULTILINE)
    ]
    found = []
    for line in lines:
        for part in line.split("&&"):
            words = shlex.split(part, comments=True)
            if "jepa-video" in words:
                found.append(words[words.index("jepa-video") + 1 :])
    return [list(words) for words in dict.fromkeys(map(tuple, found))]


def test_the_readme_leads_with_the_two_commands():
    first = blocks("bash")[0]
    assert "pip install . && jepa-video pretrain" in first
    assert "pip install '.[dev]' && pytest" in first
    assert len(TEXT.split("```bash")[0].splitlines()) < 10


def test_there_are_commands_to_examine():
    verbs = {words[0] for words in commands()}
    assert verbs == set(VERBS), "every verb is shown, and no other"
    assert len(commands()) > 10


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_what_is_to_be_typed_is_accepted(words, monkeypatch):
    monkeypatch.chdir(ROOT)  # paths of recipes are relative to the project
    verb, *options = words
    assert verb in VERBS
    if verb == "doctor":
        assert options == []
    elif verb == "report":
        assert len(options) == 1
    elif verb == "pretrain":
        parse(build_parser(), [word for word in options if word not in HELP])
    else:
        module = f"agent_{options.pop(0)}" if verb == "agent" else verb
        module = "bench_envs" if [verb, *options[:1]] == ["bench", "envs"] else module
        told = set(re.findall(r"--[\w.]+", import_module(f"jepa_video.cli.{module}").HELP))
        assert {word.split("=")[0] for word in options if word.startswith("--")} <= told


def test_the_help_of_agent_fit_names_all_that_can_be_chosen():
    from jepa_video.agent.actor import Kind
    from jepa_video.agent.refused import Judge, Source
    from jepa_video.cli.agent_fit import HELP as text

    for option, choices in (
        ("learn.source", Source),
        ("learn.judge", Judge),
        ("search.planner", Kind),
    ):
        told = text.split(f"--{option} ")[1].partition("\n  --")[0]
        assert set(re.findall(r"\w+", told)) >= set(get_args(choices)), option


def test_what_is_misspelt_would_be_noticed(monkeypatch):
    monkeypatch.chdir(ROOT)
    for words in (["--data.rot", "PATH"], ["--config", "configs/pretrain/none.yaml"]):
        with pytest.raises(UserError):
            parse(build_parser(), words)


def test_the_options_of_the_help_text_exist():
    from jepa_video.cli.pretrain import HELP as text

    parser = build_parser()
    known = {name for action in parser._actions for name in action.option_strings} | HELP
    nested = re.compile(r"--model\.encoder\.")  # options of the class that is chosen
    named = set(re.findall(r"--[\w.]+", text.replace("--OPTION", "")))
    assert {name for name in named if not nested.match(name)} <= known
    for name in filter(nested.match, named):
        parse(build_parser(), [name, "small" if name.endswith("size") else "16"])


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A folder with a run that has an encoder, and a video."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "NAME" / "checkpoints").mkdir(parents=True)
    save_encoder(VideoViT(), tmp_path / "runs" / "NAME" / "encoder")
    save_tiny_agent(tmp_path / "runs" / "agent")
    frames = np.random.default_rng(0).integers(0, 255, (20, 48, 64, 3), dtype=np.uint8)
    write_video(tmp_path / "video.mp4", frames, 8)


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_its_python_runs_as_it_stands(number, trained):
    pixels = np.zeros((2, 64, 64, 3), np.uint8)
    seen = {"pixels": pixels, "goal": pixels}
    names = {"clip": torch.zeros(2, 3, 8, 32, 32), "observation": seen}
    exec(compile(blocks("python")[number], f"README block {number}", "exec"), names)
    if "agent" in names:
        assert names["actions"].shape == (2, 2)
        return
    tokens = names["tokens"]
    assert tokens.shape[1:] == (names["encoder"].num_tokens, names["encoder"].width)


def test_the_encoder_is_three_lines():
    lines = [line for line in blocks("python")[0].splitlines() if line.strip()]
    assert len(lines) == 3


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    local = [link for link in links if not link.startswith("http")]
    assert local
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_the_files_of_a_run_are_those_that_a_run_has():
    from jepa_video.training.run import Run

    run = Run(Path("runs/NAME"))
    parts = (run.config, run.metrics, run.timings, run.unreadable, run.report)
    tree = re.search(r"^```\n(runs/NAME/\n.*?)^```", TEXT, re.MULTILINE | re.DOTALL)[1]
    for path in parts:
        assert path.name in tree
    for folder in (run.checkpoints, run.encoder):
        assert f"{folder.name}/" in tree
