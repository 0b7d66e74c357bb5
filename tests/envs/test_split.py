"""Batches in several processes: the same to the bit, and no process outlives its use."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jepa_video.agent.collect import collect
from jepa_video.cli import main
from jepa_video.envs import make_batch, split
from jepa_video.envs.policies import Random, make_policy
from jepa_video.envs.rollout import play
from jepa_video.envs.split import Split, WorkerFailed
from jepa_video.errors import UserError
from tests.agent.test_collect import contents

FOREIGN = "gym/elsewhere:Walk-v0"  # a module beside the caller's script
MODULE = """
import gymnasium, numpy as np
from gymnasium import spaces

class Walk(gymnasium.Env):
    observation_space = spaces.Box(-99.0, 99.0, (1,))
    action_space = spaces.Discrete(3, start=1)
    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.ill = self.np_random.uniform(), seed == 13
        return self.seen(), {}

    def step(self, action):
        self.x += action - 2 + self.np_random.normal()
        print("chatter of a package, which is no answer")
        if self.ill:
            raise RuntimeError("the simulator lost its mind")
        return self.seen(), self.x, self.x > 5, False, {"is_success": self.x > 3}

    def render(self):
        return np.full((16, 16, 3), int(10 * self.x) % 256, np.uint8)

    def seen(self):
        return np.array([self.x], np.float32)

gymnasium.register("Walk-v0", Walk, max_episode_steps=40)
"""
CASES = [
    ("TwoRooms", {"collision": "bounce", "budget": 30}),
    ("Stochastic", {"stack": 2, "repeat": 2}),
    (FOREIGN, {"repeat": 2, "size": 16}),
    ("dmc/cartpole-swingup", {"stack": 2}),
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "elsewhere.py").write_text(MODULE)
    (folder / "pygame.py").write_text("")  # what the family asks for; this walk does without
    monkeypatch.syspath_prepend(folder)


@pytest.fixture
def batches() -> Iterator[Any]:
    """Makes a batch with workers, which has ended when the test has."""
    made: list[Any] = []

    def make(*args: Any, **options: Any) -> Any:
        made.append(make_batch(*args, **options))
        return made[-1]

    yield make
    for env in made:
        env.close()


def need(id: str) -> None:
    if id.startswith("dmc"):
        pytest.importorskip("dm_control", reason="dm_control is not installed")


def pids(env: Any) -> list[int]:
    return [member._process.pid for member in env._crew._members]


def gone(pid: int, seconds: float = 20.0) -> bool:
    """Whether a process ends within that time; a zombie has ended."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        told = subprocess.run(
            ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
        )
        if not told.stdout.strip() or told.stdout.strip().startswith("Z"):
            return True
        time.sleep(0.1)
    return False


def same(one: Any, other: Any) -> None:
    """Equal to the bit, with the same names, shapes and kinds."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        one, other = tuple(one.values()), tuple(other[name] for name in one)
    if isinstance(one, tuple):
        for a, b in zip(one, other, strict=True):
            same(a, b)
    else:
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize(("id", "settings"), CASES)
def test_parts_side_by_side_are_the_whole_to_the_bit(id, settings, batches):
    need(id)
    here, there = batches(id, 3, **settings), batches(id, 3, workers=2, **settings)
    assert isinstance(there, Split) and len(set(pids(there))) == 2
    for name in ("id", "batch", "budget", "pace", "stays", "tells_success", "state_size"):
        assert getattr(here, name) == getattr(there, name), name
    for name in ("action_size", "action_norm", "state_names", "observation_space", "action_space"):
        assert getattr(here, name) == getattr(there, name), name
    same(here.reset(seed=3), there.reset(seed=3))
    draw = np.random.default_rng(0)
    for turn in range(9):
        actions = draw.integers(0, 3, 3)
        if not here.discrete:
            actions = draw.uniform(-1.2, 1.2, (3, here.action_size)).astype(np.float32)
        same(here.step(actions), there.step(actions))
        if turn in (3, 6):  # some begin anew: of one part alone, then of both
            mask = np.arange(3) > 1 if turn == 3 else np.arange(3) != 1
            told = {"seed": list(range(50, 53)), "options": {"reset_mask": mask}}
            same(here.reset(**told), there.reset(**told))
            assert here.seeds == there.seeds
        if turn == 5:
            here.feel([0]), there.feel([0])
            assert here.observation_space == there.observation_space
    same(here.render(), there.render())
    for name in ("expert", "straight"):
        assert here.has(name) == there.has(name)
        if here.has(name):
            same(getattr(here, name)(), getattr(there, name)())


@pytest.mark.parametrize("policy", ["explore", "wander", "scripted"])
def test_policies_that_see_the_truth_see_the_same(policy, batches):
    episodes = []
    for workers in (0, 3):
        env = batches("Stochastic", 4, workers=workers, budget=25)
        episodes.append(play(env, make_policy(policy, env), list(range(20, 24))))
    for one, other in zip(*episodes, strict=True):
        for name in ("frames", "states", "actions", "rewards", "success", "goal_state"):
            same(getattr(one, name), getattr(other, name))


def test_tasks_that_are_handed_over_go_to_their_parts(batches):
    here, there = batches("Rooms", 4), batches("Rooms", 4, workers=3)
    here.reset(seed=8)
    rows = here.task[::-1].copy()
    same(*(env.reset(seed=8, options={"tasks": rows}) for env in (here, there)))
    with pytest.raises(UserError, match=r"tasks of Rooms have the shape \(4, "):
        there.reset(seed=8, options={"tasks": rows[:2]})


@pytest.mark.parametrize("id", ["TwoRooms", "Pendulum"])
def test_a_mask_of_none_begins_nothing(id, batches):
    env = batches(id, 2)
    before = env.reset(seed=1)
    same(before, env.reset(seed=5, options={"reset_mask": np.zeros(2, bool)}))


def test_0_and_1_are_this_process_and_there_are_no_more_than_environments(batches):
    assert [type(batches("TwoRooms", 3, workers=n)).__name__ for n in (0, 1)] == ["TwoRooms"] * 2
    assert not isinstance(batches("TwoRooms", 1, workers=4), Split)
    assert len(pids(batches("TwoRooms", 3, workers=8))) == 3


@pytest.mark.parametrize(
    ("id", "settings", "told"),
    [
        ("Rooms", {"collision": "jump"}, "collision must be stay or bounce"),
        ("Rooms", {"colour": 3}, "Rooms has no setting 'colour'"),
        ("Rooms", {"view": object()}, "Rooms with workers takes plain values as settings"),
        ("gym/Nothing-v0", {}, "there is no environment gym/Nothing-v0"),
        ("Rooms", {"workers": -1}, "workers must be 0 or more, not -1"),
    ],
)
def test_what_cannot_be_made_is_the_same_sentence_and_leaves_no_process(
    id, settings, told, monkeypatch
):
    started: list[Any] = []

    class Seen(split.Watched):
        def _started(self) -> Any:
            started.append(super()._started())
            return started[-1]

    monkeypatch.setattr(split, "Watched", Seen)
    with pytest.raises(UserError, match=told):
        make_batch(id, 4, **({"workers": 2} | settings))
    assert all(process.returncode is not None for process in started)


def test_what_an_environment_raises_names_it_and_what_it_raised(batches):
    env = batches(FOREIGN, 4, workers=2)
    env.reset(seed=[11, 12, 13, 14])
    with pytest.raises(WorkerFailed, match=f"^{FOREIGN}: RuntimeError: the simulator lost its m"):
        env.step(np.full(4, 2))
    env.reset(seed=0)  # the processes are well, and go on


def test_a_worker_that_dies_is_told_with_the_environment_and_ends_all(batches):
    env = batches("TwoRooms", 4, workers=2)
    env.reset(seed=0)
    first, second = pids(env)
    os.kill(second, signal.SIGKILL)
    with pytest.raises(WorkerFailed, match="^TwoRooms: worker 2 of 2 died$"):
        env.step(np.zeros((4, 2)))
    assert gone(first) and gone(second)
    with pytest.raises(WorkerFailed, match="TwoRooms: its workers have ended"):
        env.reset(seed=0)


def test_a_worker_that_hangs_is_not_waited_for(batches, monkeypatch):
    env = batches("TwoRooms", 4, workers=2)
    env.reset(seed=0)
    monkeypatch.setattr(split, "PATIENCE", 0.5)
    os.kill(pids(env)[0], signal.SIGSTOP)
    with pytest.raises(WorkerFailed, match=r"^TwoRooms: worker 1 of 2 hangs \(no answer in 0.5 s"):
        env.step(np.zeros((4, 2)))


def test_close_leaves_no_process():
    env = make_batch("TwoRooms", 4, workers=2)
    there = pids(env)
    env.close()
    env.close()
    assert all(gone(pid, 5.0) for pid in there)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_their_parent(how):
    # Whoever starts these tests in the background may have told them to ignore Ctrl-C.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "from jepa_video.envs import make_batch; import numpy as np, time\n"
    code += "env = make_batch('TwoRooms', 4, workers=2); env.reset(seed=0)\n"
    code += "print(*(m._process.pid for m in env._crew._members), flush=True)\n"
    code += "while True: env.step(np.zeros((4, 2)))"
    parent = subprocess.Popen(
        [sys.executable, "-c", code], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    assert parent.stdout is not None
    there = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(there) == 2
    (os.killpg if how == signal.SIGINT else os.kill)(parent.pid, how)  # Ctrl-C goes to all of them
    try:
        _, said = parent.communicate(timeout=30)
    finally:
        parent.kill()
    assert parent.returncode and ("KeyboardInterrupt" in said) == (how == signal.SIGINT)
    assert all(gone(pid) for pid in there)


# -- in collect and agent eval ---------------------------------------------------------------------


class Murderous(Random):
    """Ends a worker at the fourth step, once."""

    left = 1

    def act(self, observation):
        batch = self.env._env  # of what makes it anew
        if self.time == 3 and Murderous.left and isinstance(batch, Split):
            Murderous.left -= 1
            os.kill(pids(batch)[0], signal.SIGKILL)
        return super().act(observation)


def test_collect_makes_it_anew_and_the_folder_is_that_of_one_process(tmp_path: Path):
    found = []
    for workers in (0, 2):
        out = tmp_path / str(workers)
        told = {"batch": 4, "settings": {"budget": 6, "size": 16}, "workers": workers}
        found.append(collect(FOREIGN, ("random", Murderous), 6, out, **told))
    assert [one.crashes for one in found] == [
        [],
        [f"WorkerFailed: {FOREIGN}: worker 1 of 2 died"],
    ]
    one, other = (contents(tmp_path / workers) for workers in ("0", "2"))
    assert b"worker 1 of 2 died" in other.pop("meta/crashes.jsonl") and one == other


@pytest.mark.parametrize("verb", ["collect", "eval"])
def test_the_commands_take_workers(verb, tmp_path, monkeypatch):
    asked = []
    real = split.split_batch
    monkeypatch.setattr(split, "split_batch", lambda *args: asked.append(args[1:3]) or real(*args))
    words = ["--env", "TwoRooms", "--budget", "6", "--policy", "random", "--episodes", "4"]
    begin = ["collect"] if verb == "collect" else ["agent", "eval", "--beside", "none"]
    out = str(tmp_path / "out")
    assert main([*begin, *words, "--workers", "2", "--out", out]) == 0
    assert asked == [(4, 2)]
