"""`jepa-video world` and `agent fit` as a person meets them: runs, resumes, results, refusals."""

import csv
import html
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from jepa_video import Agent, load_encoder, load_world
from jepa_video.agent.chart import Chart
from jepa_video.agent.collect import collect
from jepa_video.agent.cost import CURIOSITY, IntrinsicCost
from jepa_video.agent.learner import AgentLearner
from jepa_video.agent.task import Task, Zone
from jepa_video.cli import main
from jepa_video.cli.agent_job import AgentJob
from jepa_video.cli.options import parse
from jepa_video.cli.world_job import named, parser_for
from jepa_video.data.lerobot import Dataset, episode_rows
from jepa_video.envs import make_batch
from jepa_video.interop.files import read_safetensors
from jepa_video.interop.weights import save_encoder
from jepa_video.models.conv import ConvEncoder
from jepa_video.models.dynamics import Seeker
from jepa_video.models.encoder import VideoViT

ROOT = Path(__file__).parents[1]
QUIET = ["--wandb", "off", "--trainer.accelerator", "cpu", "--trainer.log_every_n_steps", "1"]
WORLD = ["--data.frames", "6", "--data.batch_size", "4", "--watch.every_n_steps", "2", *QUIET]
TINY = ["--model.encoder.channels", "4", "--model.encoder.width", "8"]
FIT = ["--data.batch_size", "16", "--learn.hidden", "16", *QUIET]
FIT += ["--search.samples", "12", "--search.iterations", "2"]
SIX = ["--trainer.max_steps", "6"]


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("episodes") / "rooms"
    collect("TwoRooms", "explore", 12, folder, settings={"budget": 20})
    return folder


def world_words(episodes: Path, runs: Path, name: str = "rooms") -> list[str]:
    words = ["world", "--data.root", str(episodes), *WORLD, *TINY, *SIX]
    words += ["--checkpoint.every_n_steps", "2", "--checkpoint.keep", "3"]
    return [*words, "--runs", str(runs), "--name", name]


def fit_words(world: Path, episodes: Path, runs: Path, name: str = "agent") -> list[str]:
    words = ["agent", "fit", "--checkpoint", str(world), "--data.root", str(episodes), *FIT, *SIX]
    words += ["--checkpoints.every_n_steps", "2", "--checkpoints.keep", "3"]
    return [*words, "--runs", str(runs), "--name", name]


@pytest.fixture(scope="module")
def world(episodes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    assert main(world_words(episodes, runs)) == 0
    return runs / "rooms"


@pytest.fixture(scope="module")
def agent(world: Path, episodes: Path) -> Path:
    assert main(fit_words(world, episodes, world.parent)) == 0
    return world.parent / "agent"


# -- what lies there afterwards --------------------------------------------------------------------


def test_a_world_leaves_all_that_is_promised(world: Path) -> None:
    for name in ("config.yaml", "metrics.csv", "timings.csv", "unreadable.csv", "report.html"):
        assert (world / name).is_file(), name
    summary = json.loads((world / "summary.json").read_text())
    assert summary["status"] == "finished" and summary["kind"] == "world"
    assert summary["env"] == "TwoRooms" and summary["steps"] == 6
    assert len(summary["energy_over_copy"]) == len(summary["read_error_foretold"]) == 5
    rows = list(csv.DictReader((world / "metrics.csv").read_text().splitlines()))
    assert [row["step"] for row in rows] == list(map(str, range(1, 7)))
    first_stage = ("inverse", "temporal", "reg/variance")  # settle 0.5 of 6 steps
    assert all(bool(row[name]) == (int(row["step"]) <= 3) for row in rows for name in first_stage)
    assert all(float(row["loss"]) > 0 and float(row["energy"]) > 0 for row in rows)
    model = load_world(world)
    assert model.facts.env == "TwoRooms" and model.facts.settings["budget"] == 20
    for name, value in load_encoder(world).state_dict().items():
        assert torch.equal(value, model.encoder.state_dict()[name])


def test_an_agent_leaves_all_that_is_promised(agent: Path) -> None:
    for name in ("config.yaml", "metrics.csv", "report.html", "world/world.safetensors"):
        assert (agent / name).is_file(), name
    summary = json.loads((agent / "summary.json").read_text())
    assert summary["status"] == "finished" and summary["kind"] == "agent"
    rows = list(csv.DictReader((agent / "metrics.csv").read_text().splitlines()))
    assert [row["step"] for row in rows] == list(map(str, range(1, 7)))
    for row in rows:
        corrects = int(row["step"]) <= 2  # correct 0.4 of 6 steps
        acts = int(row["step"]) > 4  # first the critic of ways alone
        assert bool(row["energy"]) == corrects == (not row["critic"])
        assert bool(row["policy"]) == acts
        assert float(row["lr"]) > 0
    mind = Agent.load(agent).mind
    assert (mind.doubt, mind.reach, mind.norm) == (summary["doubt"], summary["reach"], 1.0)
    assert (mind.weights, mind.search.samples, mind.hidden) == ({"goal": 1.0}, 12, 16)


def test_the_agents_world_has_corrected_dynamics_and_the_same_eyes(
    world: Path, agent: Path
) -> None:
    before, after = load_world(world).state_dict(), load_world(agent).state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("dynamics.") for name in changed)


def test_no_training_changes_a_byte_of_the_intrinsic_cost_and_none_can(
    world: Path, episodes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, optimizers = [], []
    build, configure = AgentJob.build, AgentLearner.configure_optimizers

    def noted(job: AgentJob) -> None:
        build(job)
        learner = job.module
        critic = [weight.clone() for weight in learner.critic.parameters()]
        begun.append((learner, critic, cost_bytes(learner.intrinsic)))

    def optimised(learner: AgentLearner) -> dict:
        made = configure(learner)
        optimizers.append(made["optimizer"])
        return made

    monkeypatch.setattr(AgentJob, "build", noted)
    monkeypatch.setattr(AgentLearner, "configure_optimizers", optimised)
    assert main(fit_words(world, episodes, tmp_path)) == 0
    ((learner, critic, before),) = begun
    assert not all(map(torch.equal, critic, learner.critic.parameters()))  # a training it was
    cost, saved = learner.intrinsic, Agent.load(tmp_path / "agent").cost.intrinsic
    assert cost_bytes(cost) == before == cost_bytes(saved)
    assert cost_bytes(IntrinsicCost(2 * cost.reach, cost.aim, cost.read, cost.names)) != before
    # It has nothing that an optimizer takes, and what it reads states by is in none.
    assert not isinstance(cost, nn.Module) and not hasattr(cost, "parameters")
    reads = {id(weight) for weight in cost.read.__self__.readout.parameters()}
    groups = [group for one in optimizers for group in one.param_groups]
    assert reads and groups and not any(id(w) in reads for group in groups for w in group["params"])
    with pytest.raises(RuntimeError, match="does not require grad"):
        torch.stack(list(cost_terms(cost).values())).sum().backward()
    for name in ("reach", "aim", "read", "names"):
        with pytest.raises(AttributeError, match="immutable"):
            setattr(cost, name, 1.0)
        with pytest.raises(AttributeError, match="immutable"):
            delattr(cost, name)
    assert cost_bytes(cost) == before


def cost_terms(cost: IntrinsicCost) -> dict[str, torch.Tensor]:
    """Each of its terms, `3 4`, of the same states and actions."""
    draw, state = torch.Generator().manual_seed(0), cost.read.__self__.state
    states, goal = torch.randn(2, 3, 4, state.tokens, state.width, generator=draw)
    actions = torch.randn(3, 4, 2, generator=draw)
    names = [name for name in cost.TERMS if name != CURIOSITY]
    names += [f"state.{name}" for name in cost.names] + [f"gap.{'.'.join(cost.names[:2])}"]
    task = Task(goal[:, 0], dict.fromkeys(names, 1.0), (Zone((-1e3,), (1e3,)),))
    told = cost.terms(states, actions, task)
    assert list(told) == names
    return told


def cost_bytes(cost: IntrinsicCost) -> bytes:
    """All that it is: its unit, what it reads states by, and each of its terms."""
    eyes = cost.read.__self__
    parts = [torch.tensor([cost.reach, cost.aim], dtype=torch.float64)]
    parts += [*eyes.readout.state_dict().values(), eyes.state_mean, eyes.state_std]
    parts += cost_terms(cost).values()
    return b"".join(part.detach().cpu().numpy().tobytes() for part in parts)


def test_an_agent_is_played_and_judged(agent: Path, tmp_path: Path) -> None:
    words = ["agent", "eval", "--env", "TwoRooms", "--budget", "20", "--checkpoint", str(agent)]
    words += ["--policy", "mode1,mode2,auto", "--episodes", "4", "--device", "cpu"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"summary.json", "episodes.csv", "sheet.png", "episodes.mp4", "report.html"}
    told = json.loads((tmp_path / "out" / "summary.json").read_text())
    rows = {row["name"]: row for row in told["rows"]}
    assert set(rows) == {"mode1", "mode2", "auto", "random", "straight", "scripted"}
    assert rows["mode1"]["modes"] == {"mode1": 1.0} and rows["mode2"]["modes"] == {"mode2": 1.0}
    assert all(row["success"]["of"] == 4 for row in rows.values())
    assert rows["mode2"]["facts"]["samples"] == 12


@pytest.mark.parametrize("kind", ["world", "agent"])
def test_an_environment_that_it_was_not_trained_on_is_refused_before_anybody_plays(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = request.getfixturevalue(kind)
    words = ["agent", "eval", "--env", "Pendulum", "--policy", "mode2", "--checkpoint", str(run)]
    assert main([*words, "--episodes", "2", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "was trained on TwoRooms and cannot act in Pendulum" in error
    assert error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_the_episodes_of_an_agent_are_collected(agent: Path, tmp_path: Path) -> None:
    """One after the other or all at once: up to rounding it does the same."""
    words = ["collect", "--env", "TwoRooms", "--budget", "6", "--policy", str(agent)]
    for folder, counts in (("parts", ("1", "3")), ("whole", ("3",))):
        for count in counts:
            out = ["--out", str(tmp_path / folder), "--episodes", count, "--batch", "2"]
            assert main([*words, *out]) == 0
    rows = episode_rows(tmp_path / "parts")
    assert [(row["policy"], row["number"]) for row in rows] == [(str(agent), i) for i in range(3)]
    parts, whole = (Dataset(tmp_path / folder) for folder in ("parts", "whole"))
    for one, other in zip(parts.entries(), whole.entries(), strict=True):
        actions = [data.rows(entry)["action"] for data, entry in ((parts, one), (whole, other))]
        np.testing.assert_allclose(*actions, atol=1e-4)
        assert np.abs(actions[0]).max() > 0


def test_what_is_no_agent_collects_nothing(
    episodes: Path, agent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for env, policy, said in (
        ("TwoRooms", str(episodes), "is no world model: expected a finished run"),
        ("Rooms", str(agent), "was trained on TwoRooms and cannot act in Rooms"),
        ("TwoRooms", str(tmp_path / "none"), "there is no policy"),
    ):
        words = ["collect", "--env", env, "--policy", policy, "--episodes", "1"]
        assert main([*words, "--out", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


# -- killed and resumed ----------------------------------------------------------------------------


def same(one: Path, other: Path, exports: tuple[str, ...]) -> None:
    """Weights, what was logged and what was measured are the same to the bit."""
    assert (one / "metrics.csv").read_bytes() == (other / "metrics.csv").read_bytes()
    for export in exports:
        weights, again = (read_safetensors(run / export) for run in (one, other))
        assert weights.keys() == again.keys()
        assert all(torch.equal(value, again[name]) for name, value in weights.items())
    checkpoints = [
        torch.load(run / "checkpoints" / "step-00000006.ckpt", weights_only=True)
        for run in (one, other)
    ]
    for name, value in checkpoints[0]["state_dict"].items():
        assert torch.equal(value, checkpoints[1]["state_dict"][name]), name
    told = [json.loads((run / "summary.json").read_text()) for run in (one, other)]
    for name, value in told[0].items():
        if not name.endswith("_per_second") and name != "data_wait":
            assert value == told[1][name], name


def cut_off(run: Path, at: int, copy: Path) -> Path:
    """The run as a kill after step `at` would have left it."""
    shutil.copytree(run, copy)
    for name in ("summary.json", "report.html"):
        (copy / name).unlink()
    for folder in ("world", "agent", "encoder"):
        shutil.rmtree(copy / folder, ignore_errors=True)
    for path in (copy / "checkpoints").iterdir():
        if int(path.stem.removeprefix("step-")) > at:
            path.unlink()
    return copy


WORLD_FILES = ("world/world.safetensors", "encoder/encoder.safetensors")
AGENT_FILES = ("agent/agent.safetensors", "world/world.safetensors")


@pytest.mark.parametrize("at", [0, 2, 4])
def test_a_world_that_was_cut_off_in_either_stage_goes_on_the_same(
    world: Path, tmp_path: Path, at: int
) -> None:
    part = cut_off(world, at, tmp_path / "rooms")
    assert main(["world", "--resume", str(part)]) == 0
    same(world, part, WORLD_FILES)


@pytest.mark.parametrize("at", [0, 2, 4])
def test_an_agent_that_was_cut_off_goes_on_the_same(agent: Path, tmp_path: Path, at: int) -> None:
    part = cut_off(agent, at, tmp_path / "agent")
    assert main(["agent", "fit", "--resume", str(part)]) == 0
    same(agent, part, AGENT_FILES)


def test_an_agent_with_a_chart_goes_on_the_same_and_plays(
    world: Path, episodes: Path, tmp_path: Path
) -> None:
    """Its trails are laid anew when it goes on, and have to be those that it began with."""
    whole = [*fit_words(world, episodes, tmp_path, "whole"), "--learn.judge", "chart"]
    whole += ["--learn.finer", "2"]
    assert main([*whole, "--learn.stride", "2"]) == 0
    part = cut_off(tmp_path / "whole", 4, tmp_path / "part")
    assert main(["agent", "fit", "--resume", str(part)]) == 0
    same(tmp_path / "whole", part, AGENT_FILES)
    assert isinstance(Agent.load(part).critic, Chart)
    assert Agent.load(part).critic.size == (16, 16)
    play = ["agent", "eval", "--env", "TwoRooms", "--budget", "4", "--episodes", "2"]
    play += ["--policy", "mode2,auto", "--beside", "none", "--search", "{levels: 2}"]
    out = tmp_path / "eval"
    assert main([*play, "--checkpoint", str(part), "--out", str(out), "--device", "cpu"]) == 0
    assert len(json.loads((out / "summary.json").read_text())["rows"]) == 2
    # Zones lie on the chart, which reactions ask too.
    play = [*play[:8], "--policy", "mode1,auto", "--beside", "none", "--device", "cpu"]
    play += ["--cost", "{goal: 1, zone: 5}", "--zones", BOXES, "--out", str(tmp_path / "zones")]
    assert main([*play, "--checkpoint", str(part)]) == 0
    rows = json.loads((tmp_path / "zones" / "summary.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["mode1", "auto"]


def test_an_agent_that_learns_of_its_deeds_goes_on_the_same_and_plays(
    world: Path, episodes: Path, tmp_path: Path
) -> None:
    """The critic of what is done, its slow average and the price of a nat are of the training."""
    whole = [*fit_words(world, episodes, tmp_path, "whole"), "--learn.judge", "value"]
    assert main([*whole, "--learn.source", "deeds"]) == 0
    part = cut_off(tmp_path / "whole", 4, tmp_path / "part")
    assert main(["agent", "fit", "--resume", str(part)]) == 0
    same(tmp_path / "whole", part, AGENT_FILES)
    kept = torch.load(part / "checkpoints" / "step-00000006.ckpt", weights_only=True)["state_dict"]
    quick, slow = (
        torch.cat([v.flatten() for k, v in kept.items() if k.startswith(f"deeds.{name}.members")])
        for name in ("quick", "slow")
    )
    assert not torch.equal(quick, slow) and torch.allclose(quick, slow, atol=0.05)
    play = ["agent", "eval", "--env", "TwoRooms", "--budget", "4", "--episodes", "2"]
    play += ["--policy", "mode1,mode2", "--beside", "none", "--device", "cpu"]
    assert main([*play, "--checkpoint", str(part), "--out", str(tmp_path / "eval")]) == 0


KILLED = """
import os, signal, sys
from jepa_video.agent.learner import AgentLearner
from jepa_video.cli import main
from jepa_video.training.world_model import WorldModel

def die(self, *args):
    if self.global_step == 5:
        os.kill(os.getpid(), signal.SIGKILL)

for words in " ".join(sys.argv[1:]).split(" then "):
    if (child := os.fork()) == 0:
        WorldModel.on_train_batch_start = AgentLearner.on_train_batch_start = die
        os._exit(main(words.split()))
    print("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.slow
def test_real_kills_change_no_bit(world: Path, agent: Path, episodes: Path, tmp_path: Path) -> None:
    both = [world_words(episodes, tmp_path), fit_words(world, episodes, tmp_path)]
    words = " then ".join(" ".join(one) for one in both).split()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *words], env=environment, capture_output=True, text=True
    )
    ends = [line for line in done.stdout.splitlines() if line.startswith("ended")]
    assert ends == [f"ended {-signal.SIGKILL}"] * 2, done.stderr
    for name, verb, whole, files in (
        ("rooms", ["world"], world, WORLD_FILES),
        ("agent", ["agent", "fit"], agent, AGENT_FILES),
    ):
        assert not (tmp_path / name / "summary.json").exists()
        assert main([*verb, "--resume", str(tmp_path / name)]) == 0
        same(whole, tmp_path / name, files)


def test_a_finished_run_is_told_so(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["world", "--resume", str(world)]) == 2
    assert "is finished (step 6)" in capsys.readouterr().err
    assert main(["world", "--resume", str(world), "--model.settle", "0.2"]) == 2
    assert "--model.settle cannot change in a resumed run" in capsys.readouterr().err
    assert main(["world", "--resume", str(world), "--data.val_share", "0.5"]) == 2
    assert "--data.val_share cannot change in a resumed run" in capsys.readouterr().err


# -- starting points and parts ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def video_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder of clips of 4 frames."""
    folder = tmp_path_factory.mktemp("encoder") / "nano"
    torch.manual_seed(7)
    save_encoder(VideoViT(frames=4, image=64, width=24, depth=1, heads=2), folder)
    return folder


@pytest.mark.parametrize("train", ["full", "frozen"])
def test_a_video_encoder_becomes_the_eyes_of_a_world(
    train: str, video_encoder: Path, episodes: Path, tmp_path: Path
) -> None:
    words = ["world", "--data.root", str(episodes), *WORLD, "--trainer.max_steps", "1"]
    words += ["--init", str(video_encoder), "--model.train", train, "--model.settle", "0"]
    assert main([*words, "--runs", str(tmp_path), "--name", "eyes"]) == 0
    found, before = load_world(tmp_path / "eyes").encoder, load_encoder(video_encoder)
    assert found.config == before.config and found.frames == 4
    kept = [torch.equal(v, found.state_dict()[name]) for name, v in before.state_dict().items()]
    assert all(kept) == (train == "frozen")


def test_its_frames_may_be_others_and_its_width_may_not(
    video_encoder: Path, episodes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["world", "--data.root", str(episodes), *WORLD, "--trainer.max_steps", "1"]
    words += ["--init", str(video_encoder), "--runs", str(tmp_path), "--name", "eyes"]
    assert main([*words, "--model.encoder.width", "48"]) == 2
    assert f"model.encoder.width is 24 in {video_encoder}, not 48" in capsys.readouterr().err
    assert main([*words, "--model.encoder.frames", "2"]) == 0
    assert load_world(tmp_path / "eyes").encoder.frames == 2


def test_a_class_that_is_named_begins_with_its_own_defaults() -> None:
    words = ["--data.root", "x", "--model.state", "PatchState", "--model.dynamics=TokenDynamics"]
    words += ["--model.encoder", "jepa_video.VideoViT", "--model.encoder.width", "48"]
    model = parse(parser_for(words), words).model
    assert model.dynamics.init_args.hidden == 96 and model.dynamics.init_args.depth == 3
    assert model.state.class_path.endswith("PatchState")
    assert model.encoder.init_args.width == 48 and model.encoder.init_args.patch == VideoViT().patch
    plain = parse(parser_for(["--data.root", "x"]), ["--data.root", "x"]).model
    assert plain.encoder.class_path.endswith("ConvEncoder")


def test_an_encoder_is_told_as_a_file_tells_it() -> None:
    told = named(ConvEncoder(frames=2, tubelet=2, channels=4))
    assert told["class_path"] == "jepa_video.models.conv.ConvEncoder"
    assert ConvEncoder(**told["init_args"]).config["channels"] == 4


def test_a_world_with_a_latent_becomes_an_agent_that_acts(episodes: Path, tmp_path: Path) -> None:
    words = ["world", "--data.root", str(episodes), *WORLD, *TINY, "--trainer.max_steps", "2"]
    words += ["--model.latent", "DiscreteLatent", "--model.latent.count", "4"]
    assert main([*words, "--runs", str(tmp_path), "--name", "latent"]) == 0
    words = ["agent", "fit", "--checkpoint", str(tmp_path / "latent"), *FIT]
    words += ["--data.root", str(episodes), "--trainer.max_steps", "4"]
    assert main([*words, "--runs", str(tmp_path), "--name", "agent"]) == 0
    env = make_batch("TwoRooms", 2, budget=3)
    found = Agent.load(tmp_path / "agent", env, "mode2")
    found.reset([1, 2])
    observation, _ = env.reset(seed=[1, 2])
    assert env.step(found.act(observation)) and found.explain().imagined.shape == (2, 6, 2)


def test_a_world_with_a_backdrop_keeps_the_mean_of_what_it_learned_from(
    episodes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*world_words(episodes, tmp_path, "apart"), "--model.encoder.backdrop", "true"]
    assert main([*words, "--model.encoder.image", "32"]) == 2
    assert "model.encoder.image is 32 and the episodes have 64" in capsys.readouterr().err
    assert main(words) == 0
    backdrop = load_world(tmp_path / "apart").encoder.backdrop
    assert 0 < float(backdrop.scale) < 1 and float(backdrop.mean.std()) > 0
    # Another world that begins with this encoder looks through the same eyes.
    words = [*world_words(episodes, tmp_path, "next"), "--init", str(tmp_path / "apart")]
    assert main([*words, "--data.share", "0.5"]) == 0
    after = load_world(tmp_path / "next").encoder.backdrop
    torch.testing.assert_close(after.state_dict(), backdrop.state_dict(), rtol=0, atol=0)


def test_a_readout_that_looks_for_things_needs_a_map_and_a_network(
    episodes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*world_words(episodes, tmp_path, "sought"), "--model.read_sought", "true"]
    assert main(words) == 2
    assert "model.read_sought looks in the map" in capsys.readouterr().err
    assert main([*words, "--model.read_hidden", "8", "--model.state", "VectorState"]) == 2
    assert main([*words, "--model.read_hidden", "8"]) == 0
    assert isinstance(load_world(tmp_path / "sought").readout.deep["reward"], Seeker)


def test_a_world_that_feels_is_played_learned_from_and_played(
    episodes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["world", "--data.root", str(episodes), *WORLD, *TINY, "--trainer.max_steps", "2"]
    words += ["--model.felt", "[y]", "--runs", str(tmp_path), "--name", "felt"]
    assert main(words) == 0
    assert load_world(tmp_path / "felt").felt == [1]
    words = ["agent", "fit", "--checkpoint", str(tmp_path / "felt"), *FIT]
    words += ["--data.root", str(episodes), "--trainer.max_steps", "4"]
    assert main([*words, "--runs", str(tmp_path), "--name", "agent"]) == 0
    for run, modes in (("felt", "mode2"), ("agent", "mode1,mode2,auto")):
        words = ["agent", "eval", "--env", "TwoRooms", "--budget", "4", "--beside", "none"]
        words += ["--checkpoint", str(tmp_path / run), "--policy", modes, "--episodes", "2"]
        assert main([*words, "--device", "cpu", "--out", str(tmp_path / f"of-{run}")]) == 0
        told = json.loads((tmp_path / f"of-{run}" / "summary.json").read_text())
        assert [row["name"] for row in told["rows"]] == modes.split(",")
    words = ["collect", "--env", "TwoRooms", "--budget", "8", "--policy", str(tmp_path / "agent")]
    assert main([*words, "--episodes", "2", "--out", str(tmp_path / "own")]) == 0
    # Memory that tells other numbers cannot be felt.
    info = json.loads((tmp_path / "own" / "meta" / "info.json").read_text())
    info["features"]["observation.state"]["names"] = ["y", "x"]
    (tmp_path / "own" / "meta" / "info.json").write_text(json.dumps(info))
    words = ["agent", "fit", "--checkpoint", str(tmp_path / "felt"), *FIT]
    assert main([*words, "--data.root", str(tmp_path / "own"), "--runs", str(tmp_path)]) == 2
    assert "tells y, x of a state and" in capsys.readouterr().err


def test_a_world_with_a_memory_becomes_an_agent_with_the_same_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    episodes = tmp_path / "episodes"
    collect("Rooms", "explore", 8, episodes, settings={"budget": 16, "view": 10.0})
    world = world_words(episodes, tmp_path)
    for name, options in (("with", ["--memory", "24"]), ("without", [])):
        assert main([*world, "--name", name, *options]) == 0
        said = "24 patches of 8 x 8 pixels are remembered" in capsys.readouterr().out
        assert said == (name == "with")
    assert [load_world(tmp_path / name).facts.memory for name in ("with", "without")] == [24, 0]
    weights = [load_world(tmp_path / name).state_dict() for name in ("with", "without")]
    assert not torch.equal(*(part["dynamics.enter.weight"] for part in weights))
    for run, options, has in (
        ("with", [], 24), ("with", ["--memory", "0"], 0), ("without", [], 0),
        ("without", ["--memory", "9"], 9),
    ):  # fmt: skip
        name = f"{run}-{has}"
        assert main([*fit_words(tmp_path / run, episodes, tmp_path, name), *options]) == 0
        assert Agent.load(tmp_path / name).mind.memory == has
    for asked, had in ((None, 24), (0, None), (5, 5)):
        words = ["agent", "eval", "--env", "Rooms", "--view", "10", "--budget", "4"]
        words += ["--checkpoint", str(tmp_path / "with-24"), "--episodes", "2", "--beside", "none"]
        words += [] if asked is None else ["--memory", str(asked)]
        out = tmp_path / f"out-{asked}"
        assert main([*words, "--policy", "mode1,mode2", "--out", str(out)]) == 0
        rows = json.loads((out / "summary.json").read_text())["rows"]
        assert [row["facts"].get("memory") for row in rows] == [had, had]
    for part, files in (("with", WORLD_FILES), ("with-24", AGENT_FILES)):  # and after a kill
        verb = ["world"] if part == "with" else ["agent", "fit"]
        again = cut_off(tmp_path / part, 4, tmp_path / "again" / part)
        assert main([*verb, "--resume", str(again)]) == 0
        same(tmp_path / part, again, files)
        assert main([*verb, "--resume", str(again), "--memory", "3"]) == 2
        assert "--memory cannot change in a resumed run (" in capsys.readouterr().err
    assert main([*world, "--name", "none", "--memory", "-1"]) == 2
    assert "memory must be 0 or more patches, not -1" in capsys.readouterr().err


def test_with_one_network_auto_always_plans_and_it_is_said_before(
    world: Path, episodes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["agent", "fit", "--checkpoint", str(world), "--data.root", str(episodes), *FIT]
    words += ["--trainer.max_steps", "4", "--learn.judge", "value"]
    words += ["--runs", str(tmp_path), "--name"]
    assert main([*words, "one", "--learn.members", "1"]) == 0
    said = "one network has no doubt, so that mode auto will always plan"
    assert said in capsys.readouterr().out
    play = ["agent", "eval", "--env", "TwoRooms", "--budget", "4", "--beside", "none"]
    play += ["--episodes", "2", "--device", "cpu", "--out", str(tmp_path / "out")]
    assert main([*play, "--checkpoint", str(tmp_path / "one")]) == 0
    (row,) = json.loads((tmp_path / "out" / "summary.json").read_text())["rows"]
    assert (row["name"], row["modes"]) == ("auto", {"mode2": 1.0})
    assert main([*words, "two", "--learn.members", "2"]) == 0
    assert said not in capsys.readouterr().out


def lines_to_run(told: str) -> list[list[str]]:
    """The commands that a text tells to run next."""
    lines = [line.strip() for line in told.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("jepa-video agent eval")]


def test_the_lines_that_are_printed_work_as_they_stand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the environment is not set as usual, and the place has a long name."""
    runs = tmp_path / ("a name with spaces " * 5 + "in it")
    settings = {"budget": 20, "layouts": "fixed", "repeat": 2, "stack": 2}
    collect("TwoRooms", "explore", 12, tmp_path / "rooms", settings=settings)
    data = ["--data.root", str(tmp_path / "rooms"), "--trainer.max_steps", "2", "--runs", str(runs)]
    capsys.readouterr()
    assert main(["world", *data, *WORLD, *TINY, "--name", "rooms"]) == 0
    of_world = lines_to_run(capsys.readouterr().out)
    fit = ["agent", "fit", "--checkpoint", str(runs / "rooms"), *data, *FIT, "--name", "agent"]
    assert main(fit) == 0
    of_agent = lines_to_run(capsys.readouterr().out)
    assert len(of_world) == len(of_agent) == 1
    for number, words in enumerate((*of_world, *of_agent)):
        out = tmp_path / str(number)
        assert main([*words, "--episodes", "2", "--budget", "4", "--out", str(out)]) == 0
        told = json.loads((out / "summary.json").read_text())["settings"]
        assert (told["layouts"], told["repeat"], told["stack"]) == ("fixed", 2, 2)
    for run in ("rooms", "agent"):  # the pages tell the same
        page = html.unescape((runs / run / "report.html").read_text())
        assert "jepa-video agent eval --env TwoRooms --stack 2 --repeat 2 --layouts fixed" in page


BOXES = "[{low: [8, 8], high: [20, 20], margin: 1}, {low: [40], high: [44]}]"


def test_zones_are_learned_with_and_given_at_run_time(
    world: Path, agent: Path, episodes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["agent", "fit", "--checkpoint", str(world), "--data.root", str(episodes), *FIT]
    words += ["--cost", "{goal: 1, zone: 0.5}", "--zones", BOXES, "--trainer.max_steps", "4"]
    assert main([*words, "--runs", str(tmp_path), "--name", "careful"]) == 0
    zones = (Zone((8.0, 8.0), (20.0, 20.0), 1.0), Zone((40.0,), (44.0,)))
    careful = Agent.load(tmp_path / "careful").mind
    assert careful.zones == zones and careful.weights == {"goal": 1.0, "zone": 0.5}

    play = ["agent", "eval", "--env", "TwoRooms", "--budget", "4", "--beside", "none"]
    play += ["--policy", "mode2,auto", "--episodes", "2", "--device", "cpu"]
    for run in (agent, world):  # with a critic and without
        out = tmp_path / f"eval-{run.name}"
        words = [*play, "--checkpoint", str(run), "--out", str(out)]
        words = words if run is agent else [*words, "--policy", "mode2"]
        assert main([*words, "--cost", "{goal: 1, zone: 5}", "--zones", BOXES]) == 0
        told = json.loads((out / "summary.json").read_text())
        assert told["cost"] == {"goal": 1.0, "zone": 5.0} and len(told["zones"]) == 2
        assert all(row["modes"] == {"mode2": 1.0} for row in told["rows"])
    for more, said in (
        (["--cost", "{zone: 1}"], "the cost zone needs boxes"),
        (["--zones", BOXES], "zones count by the cost zone"),
        (["--cost", "{goal: 2}", "--policy", "mode1"], "mode1 acts as it learned to"),
    ):
        assert main([*play, "--checkpoint", str(agent), *more, "--out", str(tmp_path / "no")]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1 and not (tmp_path / "no").exists()


# -- what is refused -------------------------------------------------------------------------------

WRONG_WORLDS = [
    (["--data.root", "{tmp}/none"], "holds no episodes (there is no"),
    (["--data.root", "{tmp}"], "holds no episodes (there is no"),
    (["--data.root", "{world}"], "expected a folder of jepa-video collect"),
    (["--model.encoder.chanels", "3"], "there is no option 'model.encoder.chanels'"),
    (["--data.framse", "3"], "there is no option --data.framse; did you mean --data.frames?"),
    (["--model.settle", "1.5"], "model.settle must be from 0 to below 1, not 1.5"),
    (["--data.frames", "1"], "data.frames must be 2 or more, not 1"),
    (["--data.frames", "40"], "has 40 frames: the longest has 21"),
    (["--model.encoder.frames", "6"], "windows need 7 frames or more"),
    (["--model.context", "7", "--model.piece", "8"], "windows need 8 frames or more"),
    (["--model.piece", "1"], "model.piece must be above model.context, not 1"),
    (["--data.size", "32"], "model.encoder.image is 64 and the episodes have 32 pixels"),
    (["--data.share", "0"], "share must be above 0"),
    (["--init", "{tmp}/none"], "does not exist: expected a run, an exported encoder"),
    (["--init", "{tmp}/note"], "is not a checkpoint, or is damaged"),
    (["--model.learning_rate", "-1"], "model.learning_rate must be 0 or more, not -1"),
    (["--model.warmup", "3"], "model.warmup must be from 0 to 1, not 3"),
    (["--model.betas", "[0.9,1]"], "model.betas must be below 1"),
    (["--model.inverse", "-1"], "model.inverse must be 0 or more, not -1"),
    (["--model.compile", "nothing"], "model.compile: there is no backend 'nothing'"),
    (["--model.state", "PatchState"], "VectorDynamics moves one vector"),
    (["--model.state", "nothing"], "model.state: there is no class 'nothing'"),
    (["--model.dynamics.history", "0"], "model.dynamics.history must be 1 or more, not 0"),
    (["--model.encoder.width", "0"], "model.encoder.width must be 1 or more, not 0"),
    (["--model.state.each", "0"], "model.state.each must be 1 or more, not 0"),
    (["--model.state.points", "0"], "model.state.points must be 1 or more, not 0"),
    (["--model.state", "VectorState", "--model.state.dim", "0"], "model.state.dim must be 1 or"),
    (["--model.encoder", "jepa_video.VideoViT", "--model.encoder.width", "50"], "must split into"),
    (["--model.felt", "[z]"], "model.felt: there is no state 'z'; there are x, y"),
]
WRONG_AGENTS = [
    (["--data.root", "{tmp}/none"], "holds no episodes (there is no"),
    (["--checkpoint", "{tmp}/none"], "is not there: expected a run of jepa-video world"),
    (["--checkpoint", "{episodes}"], "is no world model: expected a finished run"),
    (["--checkpoint", "{world}/encoder"], "is no world model: expected a finished run"),
    (["--checkpoint", "null"], "agent fit needs --checkpoint RUN"),
    (["--learn.dicount", "1"], "did you mean --learn.discount?"),
    (["--learn.discount", "1"], "discount must be between 0 and 1, not 1.0"),
    (["--learn.learning_rate", "-1"], "learn.learning_rate must be 0 or more, not -1"),
    (["--learn.momentum", "2"], "learn.momentum must be from 0 to 1, not 2"),
    (["--search.levels", "2"], "search.levels 2 needs a level 2, which learn.stride 1 or more"),
    (["--learn.hidden", "0"], "learn.hidden must be 1 or more, not 0"),
    (["--cost", "goal=1"], "cost: expected the form '{{goal: 1, effort: 0.5}}', got 'goal=1'"),
    (["--zones", "[[1, 2]]"], "zones: expected the form '[{{low: [8, 30], high: [20, 45]}}]'"),
    (["--config", "{world}/config.yaml"], "has the settings of a run of jepa-video world, not"),
    (["--resume", "{world}"], "goes on with jepa-video world --resume {world}"),
    (["--cost", "{{speed: 1}}"], "there is no cost 'speed'; there are goal, distance"),
    (["--cost", "{{goal: 0}}"], "there is nothing to judge by"),
    (["--cost", "{{}}"], "there is nothing to judge by"),
    (["--trainer.max_steps", "0"], "trainer.max_steps 0 leaves no step for critic and policy"),
    (["--learn.correct", "0.99"], "learn.correct 0.99 gives 6 of them to the dynamics"),
    (["--cost", "{{curiosity: 1}}"], "the cost curiosity is of what an episode has taught"),
    (["--cost", "{{zone: 1}}"], "the cost zone needs boxes, as in: --zones"),
    (["--zones", "[{{low: [1], high: [2]}}]"], "zones count by the cost zone"),
    (["--zones", "[{{low: [1], high: [0]}}]"], "a zone has as many numbers in low as in high"),
    (["--zones", "[{{low: [1], hihg: [2]}}]"], "there is no option 'zones.hihg'"),
    (["--search.horizon", "0"], "horizon must be 1 or more, not 0"),
    (["--search.samples", "1"], "8 elites need as many samples or more, got 1"),
    (["--search.every", "0"], "search.every must be 1 or more, not 0"),
    (["--search.risk", "none"], "expected one of 'expected', 'worst', got 'none'"),
    (["--norm", "2"], "norm must be above 0 and at most 1.0, not 2.0"),
]


@pytest.mark.parametrize(
    ("verb", "words", "said"),
    [("world", *row) for row in WRONG_WORLDS] + [("fit", *row) for row in WRONG_AGENTS],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_run_is_told_in_a_sentence(
    verb: str,
    words: list[str],
    said: str,
    world: Path,
    episodes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "note").write_text("a note")
    places = {"tmp": tmp_path, "world": world, "episodes": episodes}
    words, said = [word.format(**places) for word in words], said.format(**places)
    begin = ["world", "--data.root", str(episodes), *WORLD, "--trainer.max_steps", "1"]
    if verb == "fit":
        begin = ["agent", "fit", "--checkpoint", str(world), "--data.root", str(episodes), *FIT]
        begin += SIX
    assert main([*begin, "--runs", str(tmp_path / "runs"), *words]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1, error
    assert not (tmp_path / "runs").exists()


def test_a_collapsed_world_model_is_named_before_an_agent_learns_from_it(tmp_path: Path) -> None:
    from jepa_video.cli.agent_words import collapse_words

    assert collapse_words(tmp_path) == []  # nothing is told of it
    for verdict, said in (
        ("collapsed: nearly the same", ["world     collapsed: nearly the same"]),
        ("healthy", []),
    ):
        (tmp_path / "summary.json").write_text(json.dumps({"verdict": verdict}))
        assert collapse_words(tmp_path) == said


def test_it_is_said_where_a_critic_does_not_mind_that_episodes_end() -> None:
    from types import SimpleNamespace

    from jepa_video.agent.bank import Bank
    from jepa_video.cli.agent_words import ending_words

    bank, states = Bank(), torch.zeros(4, 1, 2)
    for last in (False, True, True):
        ended = torch.tensor([False, False, last])
        bank.add(states, torch.zeros(3, 2), torch.zeros(3), ended)
    for ways, recall, source, said in (
        (False, 0, "plans", "--learn.recall 10 learns from memory that nothing did"),
        (False, 0, "dreams", "--learn.source deeds learns from memory that nothing did"),
        (False, 0, "deeds", None),  # it does mind
        (True, 0, "plans", None),
        (False, 10, "plans", None),
    ):
        told = ending_words(SimpleNamespace(ways=ways, recall=recall, source=source), bank)
        assert len(told) == (said is not None)
        assert all("2 of 3 episodes ended of their own" in t and t.endswith(said) for t in told)
    goes_on = Bank()
    goes_on.add(states, torch.zeros(3, 2), torch.zeros(3), torch.tensor([False, False, False]))
    assert ending_words(SimpleNamespace(ways=False, recall=0, source="plans"), goes_on) == []


def test_it_is_said_where_a_policy_has_no_step() -> None:
    from types import SimpleNamespace

    from jepa_video.cli.agent_words import idle_words

    for ways, fresh, steps, said in (
        (True, True, 2, 1),  # one for the dynamics, one for the critic alone
        (True, True, 3, 0),
        (False, True, 2, 0),
        (True, False, 2, 0),  # after a round
    ):
        module = SimpleNamespace(ways=ways, recall=0, fresh=fresh, correct=0.4)
        told = idle_words(module, steps)
        assert len(told) == said and all("learns nothing in 2 steps" in line for line in told)


def test_memory_of_another_pace_is_refused_and_of_other_pictures_or_scenes_is_not(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["agent", "fit", "--checkpoint", str(world), *FIT, "--trainer.max_steps", "3"]
    words += ["--runs", str(tmp_path / "runs"), "--data.root"]
    collect("TwoRooms", "explore", 3, tmp_path / "slow", settings={"budget": 8, "repeat": 3})
    assert main([*words, str(tmp_path / "slow")]) == 2
    told = f"slow has steps of repeat 3 and {world} was trained on those of repeat 1\n"
    assert capsys.readouterr().err.endswith(told) and not (tmp_path / "runs").exists()
    folder = tmp_path / "others"
    collect("TwoRooms", "explore", 3, folder, settings={"budget": 8, "stack": 2, "scenes": 2})
    info = json.loads((folder / "meta" / "info.json").read_text())
    del info["jepa_video"]["settings"]["repeat"]  # as before there was one
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    assert main([*words, str(folder), "--name", "others"]) == 0


def test_an_agent_is_not_played_at_another_pace(
    agent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["agent", "eval", "--env", "TwoRooms", "--budget", "4", "--checkpoint", str(agent)]
    words += ["--policy", "mode1", "--episodes", "2", "--beside", "none", "--device", "cpu"]
    assert main([*words, "--repeat", "3", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert f"{agent} was trained on steps of repeat 1 and cannot act in those of repeat 3" in error
    assert error.count("\n") == 1 and not (tmp_path / "out").exists()
    assert main([*words, "--stack", "2", "--out", str(tmp_path / "out")]) == 0


def test_memory_of_other_actions_is_refused(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["agent", "fit", "--checkpoint", str(world), *FIT, "--runs", str(tmp_path / "runs")]
    collect("Pendulum", "random", 2, tmp_path / "swings", settings={"budget": 5})
    nobodys(tmp_path / "swings")
    assert main([*words, "--data.root", str(tmp_path / "swings")]) == 2
    told = f"has actions of 1 numbers and {world} takes 2 numbers\n"
    assert capsys.readouterr().err.endswith(told)


def nobodys(folder: Path) -> None:
    """Episodes that do not tell their environment, as those of others."""
    info = json.loads((folder / "meta" / "info.json").read_text())
    info["jepa_video"]["env"] = None
    (folder / "meta" / "info.json").write_text(json.dumps(info))


def test_memory_of_another_environment_is_refused(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "maze"
    words = ["agent", "fit", "--checkpoint", str(world), *FIT, "--trainer.max_steps", "2"]
    words += ["--runs", str(tmp_path / "runs"), "--name", "maze", "--data.root", str(folder)]
    collect("Rooms", "random", 4, folder, settings={"budget": 8})
    assert main(words) == 2
    told = f"{folder} has episodes of Rooms and {world} was trained on TwoRooms\n"
    assert capsys.readouterr().err.endswith(told) and not (tmp_path / "runs").exists()
    nobodys(folder)  # what tells no environment may fit
    assert main(words) == 0
