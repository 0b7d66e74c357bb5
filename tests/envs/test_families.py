"""Environments of other packages, where they are installed, and any of gymnasium's API."""

import os
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from jepa_video.cli import main
from jepa_video.envs import families, make, make_batch
from jepa_video.envs.policies import make_policy
from jepa_video.envs.rollout import play
from jepa_video.envs.wrap import Wrapped
from jepa_video.errors import UserError

FAMILIES = [
    ("gym/Pendulum-v1", "pygame", 3),
    ("gym/CartPole-v1", "pygame", 4),
    ("minigrid/MiniGrid-Empty-8x8-v0", "minigrid", 3),
    ("dmc/cartpole-swingup", "dm_control", 5),
    ("dmc/reacher-easy", "dm_control", 6),
    ("mujoco/Reacher-v5", "imageio", 10),  # of the extra alone: dmc brings mujoco too
    ("swm/PushT-v1", "stable_worldmodel", 7),
    ("swm/TwoRoom-v1", "stable_worldmodel", 2),
    ("atari/Breakout-v5", "ale_py", 0),
]


class Line(gymnasium.Env):
    """A point on a line from -3 to 5, seen as a grey level; the goal is 2."""

    observation_space = spaces.Box(-9.0, 9.0, (1,))
    action_space = spaces.Box(np.float32(-3.0), np.float32(5.0), (1,))
    render_mode = "rgb_array"

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = float(self.np_random.uniform(0, 1))
        return self._seen(), {}

    def step(self, action):
        self.x += float(action[0])
        return self._seen(), float(action[0]), self.x > 8, False, {"is_success": self.x > 8}

    def render(self):
        return np.full((40, 80, 3), int(np.clip(10 * self.x, 0, 255)), np.uint8)

    def _seen(self):
        return np.array([self.x], np.float32)


def test_who_was_cut_short_stays_so():
    class Short(Line):
        def step(self, action):
            return self._seen(), 0.0, False, True, {}

    batch = Wrapped([Short(), Line()], budget=5)
    batch.reset(seed=[0, 1])
    cut = [batch.step(np.zeros((2, 1)))[3].tolist() for _ in range(3)]
    assert cut == [[True, False]] * 3


@pytest.mark.parametrize("name", ["explore", "wander", "sway"])
def test_walks_need_no_expert(name):
    batch = Wrapped([Line() for _ in range(12)], budget=5)
    policy = make_policy(name, batch)
    seen, _ = batch.reset(seed=list(range(12)))
    policy.reset(list(range(12)))
    for _ in range(5):
        actions = policy.act(seen)
        assert actions.shape == (12, 1) and np.abs(actions).max() <= 1 and np.abs(actions).max() > 0
        seen, *_ = batch.step(actions)


def test_any_environment_gets_scaled_actions_repeat_stack_and_a_goal():
    def goal(env):
        return np.full((40, 80, 3), 20, np.uint8), np.array([2.0])

    batch = Wrapped([Line(), Line()], stack=2, repeat=2, goal=goal, budget=5)
    seen, told = batch.reset(seed=[1, 2])
    start = told["state"][:, 0]
    assert seen["pixels"].shape == (2, 2, 64, 64, 3) and (seen["goal"] == 20).all()
    assert told["distance"] == pytest.approx(2 - start)
    seen, rewards, ended, cut, told = batch.step([[-0.25], [1.0]])  # -0.25 lies at 0, 1 at 5
    assert rewards.tolist() == [0, 10] and ended.tolist() == [False, True]
    assert told["state"][:, 0] == pytest.approx(start + (0, 10))
    assert told["success"].tolist() == [False, True]
    assert (seen["pixels"][0, 0] == seen["pixels"][0, 1]).all()
    assert (seen["pixels"][1, 0] != seen["pixels"][1, 1]).all()
    # Who has ended stays; the other goes on to the budget.
    for _ in range(4):
        _, rewards, ended, cut, told = batch.step([[-0.25], [1.0]])
        assert rewards[1] == 0 and ended[1] and told["success"][1]
    assert cut.tolist() == [True, False]


def test_any_environment_tells_what_is_felt():
    def goal(env):
        return np.full((40, 80, 3), 20, np.uint8), np.array([2.0])

    for shows in (True, False):
        batch = Wrapped([Line(), Line()], goal=goal if shows else None)
        batch.feel([0])
        seen, told = batch.reset(seed=[1, 2])
        assert (seen["felt"] == told["state"]).all()
        assert seen["goal_felt"].tolist() == [[2.0], [2.0]] if shows else "goal_felt" not in seen
        seen, _, _, _, told = batch.step([[-1.0], [1.0]])
        assert (seen["felt"] == told["state"]).all()


def test_what_has_no_pictures_or_no_limits_is_refused():
    class Silent(Line):
        render_mode = None

    class Boundless(Line):
        action_space = spaces.Box(-np.inf, np.inf, (1,))

    with pytest.raises(UserError, match="render_mode='rgb_array'"):
        Wrapped([Silent()])
    with pytest.raises(UserError, match="expected numbers between limits"):
        Wrapped([Boundless()])


@pytest.mark.parametrize(("id", "module", "states"), FAMILIES)
def test_a_family_s_environment_keeps_the_contract(id, module, states):
    pytest.importorskip(module, reason=f"{id} needs {module}, which is not installed")
    env = make_batch(id, 2, budget=4, repeat=2)
    policy = make_policy("random", env)
    first, again = (play(env, policy, seeds) for seeds in ([5, 6], [6, 5]))
    assert first[0].frames.shape[1:] == (64, 64, 3) and first[0].frames.dtype == np.uint8
    assert first[0].frames.max() > first[0].frames.min()
    assert first[0].states.shape[1] == states
    assert (first[0].states == again[1].states).all()
    assert (first[0].frames == again[1].frames).all()
    with pytest.raises(UserError, match="takes actions of shape"):
        env.step(np.zeros((3, 7)))
    env.close()


def test_a_scaled_pendulum_of_gymnasium_is_ours():
    pytest.importorskip("pygame", reason="gym/Pendulum-v1 needs pygame, which is not installed")
    ours, theirs = make("Pendulum"), make("gym/Pendulum-v1")
    _, told = ours.reset(seed=0)
    theirs.reset(seed=0)
    theirs.batch_env.envs[0].unwrapped.state = told["state"].astype(float)
    for action in ([0.3], [-1.0], [1.0]):
        _, ours_reward, _, _, told = ours.step(action)
        _, reward, _, _, info = theirs.step(action)
        assert reward == pytest.approx(ours_reward, abs=1e-4)
        angle = told["state"][0]
        assert info["state"][:2] == pytest.approx([np.cos(angle), np.sin(angle)], abs=1e-4)


@pytest.mark.parametrize("name", ["PushT-v1", "TwoRoom-v1"])
def test_goals_of_stable_worldmodel_are_pictures_of_goal_states(name):
    pytest.importorskip("stable_worldmodel", reason="stable_worldmodel is not installed")
    env = make_batch(f"swm/{name}", 2, budget=4)
    seen, told = env.reset(seed=[1, 2])
    assert seen["goal"].shape == seen["pixels"].shape and told["goal_state"].shape[1] > 1
    assert (seen["goal"][0] != seen["goal"][1]).any() and (seen["goal"] != seen["pixels"]).any()
    assert told["distance"] == pytest.approx(
        np.linalg.norm(told["goal_state"] - told["state"], axis=1)
    )
    assert not told["success"].any()
    env.close()


def test_a_task_of_deepmind_s_suite_is_solved_within_its_target():
    pytest.importorskip("dm_control", reason="dm_control is not installed")
    env = make_batch("dmc/reacher-easy", 1, budget=4)
    assert env.stays, "its return is that of the whole episode"
    env.reset(seed=[1])
    physics = env.envs[0].control.physics
    for target, inside in (("finger", True), ("root", False)):
        physics.named.model.geom_pos["target", :2] = physics.named.data.geom_xpos[target, :2]
        _, rewards, _, _, told = env.step(np.zeros((1, 2)))
        assert told["success"].tolist() == [inside] and rewards.tolist() == [inside]
    env.close()


@pytest.mark.parametrize("name", ["cartpole-swingup", "reacher-easy"])
def test_coarse_shadows_are_not_seen_in_a_small_picture(monkeypatch, name):
    pytest.importorskip("dm_control", reason="dm_control is not installed")
    drawn = []
    for pixels in (families.SHADOWS, 64, 0):  # for one of the picture; 64 are the 4,096 of no limit
        monkeypatch.setattr(families, "SHADOWS", pixels)
        env = families.load("dmc", name, 64)
        env.reset(seed=1)
        env.step(env.action_space.high)
        drawn.append(env.render().astype(float))
        env.close()
    ours, whole, none = drawn
    assert abs(ours - whole).mean() < 0.1 < 0.3 < abs(none - whole).mean()


@pytest.mark.parametrize(
    ("id", "said"),
    [
        ("TwoRoom", "there is no environment 'TwoRoom' .* did you mean TwoRooms?"),
        ("nobody/X-v0", "there is no environment 'nobody/X-v0'"),
        ("gym/Nothing-v0", "there is no environment gym/Nothing-v0"),
        ("dmc/cartpole-jump", "there is no environment dmc/cartpole-jump: .* swingup"),
    ],
)
def test_an_unknown_environment_is_a_sentence(id, said):
    if id.startswith("dmc"):
        pytest.importorskip("dm_control", reason="dm_control is not installed")
    if id.startswith("gym/"):
        pytest.importorskip("pygame", reason="pygame is not installed")
    with pytest.raises(UserError, match=said) as error:
        make(id)
    assert "\n" not in str(error.value)


def test_a_missing_package_is_a_sentence_with_its_line(monkeypatch):
    for family, name, module in (
        ("minigrid", "MiniGrid-Empty-8x8-v0", "minigrid"),
        ("atari", "Pong-v5", "ale_py"),
        ("dmc", "cartpole-swingup", "dm_control"),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        line = rf"{family}/{name} needs {module}: pip install 'jepa-video\[{family}\]'"
        with pytest.raises(UserError, match=line):
            make(f"{family}/{name}")


def test_an_unknown_setting_is_a_sentence():
    with pytest.raises(UserError, match="TwoRooms has no setting 'colour'; it has budget"):
        make("TwoRooms", colour=3)
    with pytest.raises(UserError, match="collision must be stay or bounce"):
        make("Rooms", collision="jump")
    with pytest.raises(UserError, match="repeat must be 1 or more"):
        make("Rooms", repeat=0)


def test_the_room_is_imported_without_any_environment():
    code = (
        "import sys, jepa_video.envs\n"
        "print([m for m in ('gymnasium', 'numpy', 'torch', 'pygame') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("verb", ["collect", "eval"])
def test_a_missing_package_is_told_by_the_commands_and_leaves_nothing(
    verb, monkeypatch, tmp_path, capsys
):
    monkeypatch.setitem(sys.modules, "minigrid", None)
    words = ["--env", "minigrid/MiniGrid-Empty-8x8-v0", "--policy", "random", "--episodes", "1"]
    begin = ["collect"] if verb == "collect" else ["agent", "eval"]
    assert main([*begin, *words, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "needs minigrid: pip install 'jepa-video[minigrid]'" in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("libraries", "given", "chosen"),
    [
        (("EGL", "OSMesa"), None, "egl"),
        (("OSMesa",), None, "osmesa"),
        ((), "glfw", "glfw"),
        (("EGL",), "osmesa", "osmesa"),
    ],
)
def test_a_machine_without_a_screen_draws_by_what_it_has(libraries, given, chosen, monkeypatch):
    screenless(monkeypatch, libraries)
    if given:
        monkeypatch.setenv("MUJOCO_GL", given)
    families._choose_screen("dmc")
    assert (os.environ["MUJOCO_GL"], os.environ["SDL_VIDEODRIVER"]) == (chosen, "dummy")


def test_what_cannot_be_drawn_at_all_is_a_sentence(monkeypatch):
    screenless(monkeypatch, ())
    with pytest.raises(UserError, match="finds neither EGL nor OSMesa here: install libegl1"):
        families._choose_screen("mujoco")
    families._choose_screen("gym")  # which does without


@pytest.mark.parametrize("module", ["dm_control", "dm_control.suite"])
@pytest.mark.parametrize("error", [AttributeError("glGetError"), RuntimeError("one of egl")])
def test_a_way_to_draw_that_does_not_work_here_is_a_sentence(error, module, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "osmesa")

    def fails(name):
        if name == module:
            raise error

    monkeypatch.setattr(families, "import_module", fails)
    with pytest.raises(UserError, match=f"not by MUJOCO_GL=osmesa here: unset it.*{error}"):
        families.load("dmc", "reacher-easy", 64)
    monkeypatch.delenv("MUJOCO_GL")  # then it is none of the variable's doing
    monkeypatch.setattr(families, "_choose_screen", lambda family: None)
    with pytest.raises(type(error)):
        families.load("dmc", "reacher-easy", 64)


def test_where_there_is_a_screen_nothing_is_chosen(monkeypatch):
    screenless(monkeypatch, ("EGL",))
    monkeypatch.setenv("DISPLAY", ":0")
    families._choose_screen("dmc")
    assert not {"MUJOCO_GL", "SDL_VIDEODRIVER"} & set(os.environ)


def screenless(monkeypatch, libraries):
    """A machine with Linux, no screen, and these libraries."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(families, "find_library", lambda name: name if name in libraries else None)
    for name in ("DISPLAY", "MUJOCO_GL", "SDL_VIDEODRIVER"):
        monkeypatch.setenv(name, "")  # put back what was there, whatever is set meanwhile
        monkeypatch.delenv(name)


@pytest.mark.parametrize("id", ["dmc/reacher-easy", "mujoco/Reacher-v5"])
def test_torch_may_be_imported_after_mujoco_has_drawn(id):
    """It brings triton, whose LLVM and that of Mesa's EGL ended the process in this order."""
    module = {"dmc": "dm_control", "mujoco": "imageio"}[id.split("/")[0]]
    pytest.importorskip(module, reason=f"{id} needs {module}, which is not installed")
    code = f"from jepa_video.envs import make_batch; make_batch({id!r}, 1).reset(seed=[1])"
    code += "; import torch, torch._dynamo"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
