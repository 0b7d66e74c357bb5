"""Our own environments: dynamics against statements of their own, walls, chance, baselines."""

import csv

import gymnasium
import numpy as np
import pytest

from jepa_video.envs import make, make_batch
from jepa_video.envs.geometry import first_hit
from jepa_video.envs.point import REACH, scene_of
from jepa_video.envs.policies import make_policy, swaying
from jepa_video.envs.push import ARM, FINGER, HALF, contact, pose_of, pushed, told_of
from jepa_video.envs.rollout import HELD_OUT, TRAIN, play, seeds_of
from jepa_video.envs.two_rooms import EB_STEPS, eb_tasks, held_back
from jepa_video.envs.unseen import UNSEEN
from jepa_video.errors import UserError
from tests.videos import SHARED

IDS = ("TwoRooms", "Rooms", "PointPush", "Pendulum", "CartPole", "Stochastic")
POINTS = ("TwoRooms", "Rooms", "Stochastic")


def rate(id, policy, count=100, **settings):
    """Share of held-out episodes that are solved at their end, and the episodes."""
    env = make_batch(id, count, **settings)
    seeds = seeds_of(0, count, HELD_OUT)
    episodes = play(env, make_policy(policy, env), seeds, frames=False)
    return np.mean([episode.success[-1] for episode in episodes]), episodes


# -- the contract of every environment -------------------------------------------------------------


@pytest.mark.parametrize("id", IDS)
def test_one_alone_is_the_same_as_in_a_batch(id):
    batch, seeds = make_batch(id, 3), [5, 11, 7]
    actions = np.random.default_rng(0).uniform(-1, 1, (20, 3, batch.action_size))
    seen, told = batch.reset(seed=seeds)
    for i, seed in enumerate(seeds):
        single = make(id)
        one, info = single.reset(seed=seed)
        assert (one["pixels"] == seen["pixels"][i]).all() and (one["goal"] == seen["goal"][i]).all()
    single = make(id)
    single.reset(seed=11)
    for action in actions:
        seen, rewards, _, _, told = batch.step(action)
        one, reward, _, _, info = single.step(action[1])
        assert reward == rewards[1]
        assert (info["state"] == told["state"][1]).all()
        assert (one["pixels"] == seen["pixels"][1]).all()


@pytest.mark.parametrize("stack", [1, 3])
@pytest.mark.parametrize("id", IDS)
def test_an_agent_feels_what_it_asks_for_and_nothing_else(id, stack):
    env = make_batch(id, 3, stack=stack)
    assert set(env.reset(seed=1)[0]) == {"pixels", "goal"}
    env.feel([1])
    env.feel([0, 1])  # of somebody else who looks at the same environment
    seen, told = env.reset(seed=1)
    for step in range(3):
        for name, truth in (("felt", "state"), ("goal_felt", "goal_state")):
            assert seen[name].shape == told[truth].shape and seen[name].dtype == np.float32
            assert (seen[name][:, :2] == told[truth][:, :2]).all()
            assert np.isnan(seen[name][:, 2:]).all()
        spaces = env.single_observation_space.spaces
        assert {name: rows.shape[1:] for name, rows in seen.items()} == {
            name: space.shape for name, space in spaces.items()
        }
        actions = np.full((3, env.action_size), 0.5 - step)
        seen, _, _, _, told = env.step(actions)
    with pytest.raises(UserError, match=f"{id} tells {env.state_size} numbers of its state"):
        env.feel([env.state_size])


@pytest.mark.parametrize("id", IDS)
def test_a_seed_names_an_episode_and_another_seed_another(id):
    env = make_batch(id, 2)
    runs = [play(env, make_policy("wander", env), seeds) for seeds in ([3, 4], [4, 3])]
    assert (runs[0][0].frames == runs[1][1].frames).all()
    assert (runs[0][0].actions == runs[1][1].actions).all()
    assert (runs[0][0].frames != runs[0][1].frames).any()


def test_who_wanders_turns_where_it_gets_nowhere():
    stood = {}
    for name in ("explore", "wander"):
        env = make_batch("Rooms", 64, budget=60)
        moved = [
            np.abs(np.diff(one.states[:, :2], axis=0)).max(1) > 1e-3
            for one in play(env, make_policy(name, env), range(64))
        ]
        stood[name] = 1 - np.concatenate(moved).mean()
    assert stood["explore"] > 0.5 and stood["wander"] < 0.4


def test_who_sways_moves_a_mass_and_leaves_it_where_it_is():
    pushes = np.stack([swaying(np.random.default_rng(i), 200, 1)[:, 0] for i in range(40)])
    walks = np.stack([np.random.default_rng(i).uniform(-1, 1, 200) for i in range(40)])
    far = [np.abs(some.cumsum(1).cumsum(1)).max(1).mean() for some in (pushes, walks)]
    assert np.abs(pushes).mean() > 0.3 and far[0] < far[1] / 4
    tempi = np.abs(np.fft.rfft(pushes)).argmax(1)  # tops of a spectrum, in 200 steps
    assert tempi.min() < 4 and tempi.max() > 40


def test_a_pole_that_is_swayed_swings_over_the_top_on_a_cart_that_is_seen():
    seen, up = {}, {}
    for name in ("explore", "sway"):
        env = make_batch("CartPole", 64, budget=200)
        env.has = lambda name: False  # nobody leads
        played = play(env, make_policy(name, env), range(64))
        states = np.stack([one.states for one in played])
        seen[name] = (np.abs(states[..., 0]) < 2.3).mean()
        up[name] = (np.cos(states[..., 2]) > 0.95).any(1).mean()
    assert seen["sway"] > 0.9 > 0.7 > seen["explore"] and up["sway"] > 0.2


@pytest.mark.parametrize("id", IDS)
def test_gymnasium_finds_nothing_wrong(id):
    from gymnasium.utils.env_checker import check_env

    check_env(make(id), skip_render_check=True)


@pytest.mark.parametrize("id", IDS)
def test_actions_are_clipped_and_what_is_no_action_is_refused(id):
    env, other = make_batch(id, 2), make_batch(id, 2)
    size = env.action_size
    for each in (env, other):
        each.reset(seed=0)
    told = [e.step(np.full((2, size), x))[-1] for e, x in ((env, 1.0), (other, 7.0))]
    assert (told[0]["state"] == told[1]["state"]).all()
    with pytest.raises(
        UserError, match=rf"{id} takes actions of shape \(2, {size}\), not \(2, 9\)"
    ):
        env.step(np.zeros((2, 9)))
    with pytest.raises(UserError, match="not a number"):
        env.step(np.full((2, size), np.nan))


def test_training_and_held_out_seeds_share_none_and_do_not_depend_on_how_many():
    train, held = seeds_of(0, 3000, TRAIN), seeds_of(0, 3000, HELD_OUT)
    assert not set(train) & set(held)
    assert train[100:200] == seeds_of(0, 100, TRAIN, first=100)
    assert all(0 <= seed < 2**31 for seed in train + held)


def test_a_mask_begins_some_episodes_and_leaves_the_others():
    env = make_batch("TwoRooms", 3, stack=2)
    env.reset(seed=0)
    before = env.step(np.ones((3, 2)))
    mask = np.array([False, True, False])
    seen, told = env.reset(seed=[None, 50, None], options={"reset_mask": mask})
    assert (told["state"][~mask] == before[-1]["state"][~mask]).all()
    assert (seen["pixels"][~mask] == before[0]["pixels"][~mask]).all()
    fresh, _ = make("TwoRooms", stack=2).reset(seed=50)
    assert (seen["pixels"][1] == fresh["pixels"]).all()
    assert env.time.tolist() == [1, 0, 1]


def test_a_stack_is_the_last_frames_and_repeat_takes_an_action_so_often():
    plain, stacked = make("Pendulum"), make("Pendulum", stack=3)
    slow = make("Pendulum", repeat=2)
    for env in (plain, stacked, slow):
        env.reset(seed=1)
    frames, total = [], 0.0
    for _ in range(4):
        seen, reward, *_ = plain.step([0.5])
        frames.append(seen["pixels"])
        total += reward
        last = stacked.step([0.5])[0]["pixels"]
    assert (last == np.stack(frames[-3:])).all()
    again = sum(slow.step([0.5])[1] for _ in range(2))
    assert again == pytest.approx(total)


# -- walls -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", POINTS)
@pytest.mark.parametrize("collision", ["stay", "bounce"])
def test_no_wall_is_crossed_but_at_a_door(id, collision):
    """Random walks, checked on the task's own numbers and not on the boxes."""
    if id == "Stochastic" and collision == "bounce":
        pytest.skip("Stochastic has one way to collide")
    env = make_batch(id, 64, **({} if id == "Stochastic" else {"collision": collision}))
    _, told = env.reset(seed=0)
    source, crossed = np.random.default_rng(1), 0
    heading = source.uniform(-np.pi, np.pi, 64)
    for _ in range(env.budget):
        heading += source.normal(0, 0.3, 64)
        before = env.state.copy()
        env.step(np.stack([np.cos(heading), np.sin(heading)], axis=1))
        after = env.state
        assert (after[:, :2] > 4).all() and (after[:, :2] < 60).all()
        for i in range(64):
            crossed += crossings(env, i, before[i], after[i])
        heading[(before[:, :2] == after[:, :2]).all(axis=1)] += 2.0
    assert crossed > 5


def test_a_shorter_step_makes_the_same_ways_longer():
    usual, slow = make_batch("Rooms", 20), make_batch("Rooms", 20, longest=REACH / 4, budget=400)
    ways = []
    for env in (usual, slow):
        played = play(env, make_policy("scripted", env), range(20), frames=False)
        moved = [np.linalg.norm(np.diff(one.states[:, :2], axis=0), axis=1) for one in played]
        assert max(map(np.max, moved)) == pytest.approx(env.longest, rel=1e-5)
        ways.append([int(one.success.argmax()) for one in played])
    assert (usual.task == slow.task).all()
    assert (np.array(ways[1]) > 3 * np.array(ways[0])).all()
    for wrong in (0, -1, 2.5, float("nan")):
        with pytest.raises(UserError, match="longest must be above 0 and at most 2.45 pixels"):
            make_batch("Rooms", longest=wrong)


def crossings(env, i, before, after):
    """Middle lines that one step crossed, each at one of its doors."""
    count = 0
    for axis in (0, 1):
        for line in env.lines[axis][i]:
            a, b = before[axis] - line, after[axis] - line
            if a * b < 0:
                place = before[1 - axis] + (after - before)[1 - axis] * a / (a - b)
                doors = [
                    door[1 - axis]
                    for door, pair in zip(env.doors[i], env.joins[i], strict=True)
                    if door[axis] == line
                    and (pair[0] >= 0 or (env.id == "Stochastic" and after[2] == 1))
                ]
                assert any(abs(place - door) <= env.half_door + 1e-6 for door in doors)
                count += 1
    return count


def test_a_step_that_would_hit_is_not_taken_and_another_is_taken_whole():
    env = make_batch("TwoRooms", 3)
    rows = [(30.0, 40.0, 50, 50, 32, 18), (30.0, 18.0, 50, 50, 32, 18), (5.0, 30.0, 50, 50, 32, 18)]
    env.reset(seed=0, options={"tasks": rows})
    env.step([(1.0, 0.0), (1.0, 0.0), (-1.0, 0.0)])
    assert env.state.tolist() == [[30, 40], [30 + REACH, 18], [5, 30]]
    env.reset(seed=0, options={"tasks": rows})
    env.step([(0.3, 0.0), (3.0, 3.0), (0.0, 0.5)])
    step = REACH / np.sqrt(2)
    assert np.allclose(env.state, [[30 + 0.3 * REACH, 40], [30 + step, 18 + step], [5, 31.225]])


def test_a_bounce_leaves_the_dot_before_the_wall():
    env = make_batch("TwoRooms", 200, collision="bounce")
    env.reset(seed=0, options={"tasks": [(30.5, 40.0, 50, 50, 32, 18)] * 200})
    env.step(np.tile((1.0, 0.0), (200, 1)))
    gap, side = 31 - env.state[:, 0], env.state[:, 1] - 40
    assert gap.min() >= 0.3 - 1e-9 and len(set(gap)) > 50
    assert side.std() == pytest.approx(0.5, rel=0.2)


def test_the_first_hit_is_that_of_a_fine_walk():
    source = np.random.default_rng(0)
    boxes = source.uniform(0, 20, (200, 5, 4))
    boxes[..., 2:] = boxes[..., :2] + source.uniform(1, 4, (200, 5, 2))
    start, end = source.uniform(0, 20, (2, 200, 2))
    share, _ = first_hit(start, end, boxes)
    steps = np.linspace(0, 1, 4001)[None, :, None]
    walk = start[:, None] + steps * (end - start)[:, None]
    inside = (walk[:, :, None] >= boxes[:, None, :, :2]) & (
        walk[:, :, None] <= boxes[:, None, :, 2:]
    )
    met = inside.all(axis=3).any(axis=2)
    for i in range(200):
        if met[i].any():
            assert share[i] == pytest.approx(met[i].argmax() / 4000, abs=1 / 3000)
        else:
            assert share[i] == np.inf or share[i] > 0  # a corner thinner than the walk's steps
    assert 40 < met.any(axis=1).sum() < 200


# -- TwoRooms --------------------------------------------------------------------------------------


def test_the_20_tasks_are_those_of_the_table():
    table = SHARED / "two_rooms_tasks.csv"
    if not table.exists():
        pytest.skip("the table of EB-JEPA's tasks is not here")
    rows = list(csv.reader(table.open()))[1:]
    assert (np.array(rows, float)[:, 1:] == eb_tasks()).all()


def test_on_the_20_tasks_a_straight_line_solves_9_and_who_knows_the_door_all():
    env = make_batch("TwoRooms", 20, collision="bounce", budget=EB_STEPS)

    def solved(policy):
        seeds = seeds_of(0, 20, HELD_OUT)
        return play(env, make_policy(policy, env), seeds, tasks=eb_tasks(), frames=False)

    assert sum(episode.success[-1] for episode in solved("straight")) == 9
    oracle = solved("scripted")
    assert all(episode.success[-1] for episode in oracle)
    steps = [episode.success.argmax() for episode in oracle]
    assert 14 <= np.median(steps) <= 16 and max(steps) <= 28


def test_tasks_lie_in_opposite_rooms_on_both_sides_and_layouts_are_held_back():
    env = make_batch("TwoRooms", 300)
    env.reset(seed=0)
    start, goal, wall = env.task[:, 0], env.task[:, 2], env.task[:, 4]
    assert ((start < wall) != (goal < wall)).all()
    assert (np.abs(np.stack([start, goal]) - wall) >= 3.6).all()
    assert 0.4 < (start < wall).mean() < 0.6
    for layouts, back in (("seen", False), ("unseen", True)):
        other = make_batch("TwoRooms", 60, layouts=layouts)
        other.reset(seed=0)
        assert {held_back(int(w), int(d)) for w, d in other.task[:, 4:]} == {back}


def test_the_dot_is_where_the_state_says():
    env = make("TwoRooms")
    seen, told = env.reset(seed=2)
    x, y = np.rint(told["state"]).astype(int)
    red = seen["pixels"][..., 0].astype(int)
    assert np.unravel_index(red.argmax(), red.shape) == (y, x)
    # The goal's picture has the same walls and the dot elsewhere.
    row, column = np.mgrid[:64, :64]
    dots = (told["state"], told["goal_state"])
    far = np.all([np.hypot(column - px, row - py) > 8 for px, py in dots], axis=0)
    assert (seen["goal"][far] == seen["pixels"][far]).all()
    assert seen["goal"][far].max() == 200
    gx, gy = np.rint(told["goal_state"]).astype(int)
    assert seen["goal"][gy, gx, 0] > 150


# -- a part of the scene ---------------------------------------------------------------------------


def both(count=16, view=12.0, **settings):
    """The same episodes, seen as a whole and in part."""
    envs = make_batch("Rooms", count, **settings), make_batch("Rooms", count, view=view, **settings)
    return envs, [env.reset(seed=0)[0] for env in envs]


@pytest.mark.parametrize("view", [7.45, 12, 20.5])
def test_what_is_near_is_seen_as_it_is_and_the_rest_has_the_one_colour(view):
    (whole, part), seen = both(view=view)
    row, column = np.mgrid[:64, :64]
    actions = np.random.default_rng(0).uniform(-1, 1, (30, 16, 2))
    for action in actions:
        for pictures, state in (("pixels", part.state), ("goal", part.goal_state)):
            x, y = state[:, :1, None], state[:, 1:2, None]
            close = (np.abs(column - x) <= view) & (np.abs(row - y) <= view)
            all_, some = (one[pictures] for one in seen)
            assert (some[close] == all_[close]).all() and (some[~close] == UNSEEN).all()
            assert not (all_ == UNSEEN).all(axis=-1).any()
        seen = [env.step(action)[0] for env in (whole, part)]
    assert (whole.state == part.state).all()


def test_the_pictures_of_dot_and_goal_are_whole_in_the_least_view():
    _, seen = both(view=7.45)
    for pictures in ("pixels", "goal"):
        all_, some = (one[pictures].astype(int) for one in seen)
        dots = all_[..., 0] > 45  # walls have 40
        assert (all_[dots] == some[dots]).all() and dots.any(axis=(1, 2)).all()


def test_a_picture_in_part_is_the_same_alone_and_through_gymnasium():
    from gymnasium.utils.env_checker import check_env

    check_env(make("Rooms", view=10.0), skip_render_check=True)
    batch, single = make_batch("Rooms", 3, view=10.0, stack=2), make("Rooms", view=10.0, stack=2)
    seen, _ = batch.reset(seed=[4, 5, 6])
    one, _ = single.reset(seed=5)
    assert (seen["pixels"][1] == one["pixels"]).all() and (seen["goal"][1] == one["goal"]).all()


@pytest.mark.parametrize(("view", "repeat"), [(7.4, 1), (9.0, 2), (float("nan"), 1)])
def test_a_view_that_the_dot_may_leave_in_a_step_is_refused(view, repeat):
    with pytest.raises(UserError, match=r"view must be (7.45|9.9) or more \(the dot and its way\)"):
        make_batch("Rooms", 1, view=view, repeat=repeat)
    make_batch("Rooms", 1, view=9.9, repeat=repeat)


# -- baselines -------------------------------------------------------------------------------------


def test_in_rooms_who_is_blind_to_walls_fails_and_who_knows_them_arrives():
    assert rate("Rooms", "straight")[0] < 0.30
    assert rate("Rooms", "scripted")[0] == 1.0
    assert rate("Rooms", "random")[0] < 0.05


def test_every_room_can_be_reached_and_two_doors_lie_between_the_ends():
    env = make_batch("Rooms", 100)
    env.reset(seed=0)
    cells = [env.cell(env.task[:, at : at + 2]) for at in (0, 2)]
    for i in range(100):
        steps = np.zeros((9, 9), bool)
        for a, b in env.joins[i]:
            if a >= 0:
                steps[a, b] = steps[b, a] = True
        assert steps.sum() == 2 * 9
        assert (np.linalg.matrix_power(np.eye(9) + steps, 8) > 0).all()
        assert not steps[cells[0][i], cells[1][i]] and cells[0][i] != cells[1][i]


def test_no_gap_is_drawn_in_a_wall_without_a_door():
    env = make_batch("Rooms", 50)
    seen, _ = env.reset(seed=0)
    for i in range(50):
        pieces = env.boxes[i].reshape(-1, 2, 4)[: env.openings]  # the two of each wall
        for (a, b), door in zip(pieces, env.joins[i, :, 0] >= 0, strict=True):
            x0, y0 = np.ceil(np.minimum(a, b)[:2]).astype(int)
            x1, y1 = np.floor(np.maximum(a, b)[2:]).astype(int) + 1
            wall = (seen["pixels"][i, y0:y1, x0:x1] > 0).any(-1)  # the dot may cover a part
            assert wall.all() != door


def test_two_rooms_wide_protocol_is_not_solved_by_a_straight_line():
    assert rate("TwoRooms", "straight", 200)[0] < 0.4
    assert rate("TwoRooms", "scripted", 200)[0] == 1.0


@pytest.mark.parametrize("id", ["PointPush", "Pendulum", "CartPole"])
def test_the_expert_solves_and_random_does_not(id):
    assert rate(id, "scripted", 40)[0] >= 0.9
    assert rate(id, "random", 40)[0] <= 0.05


def test_the_torque_does_not_lift_the_pendulum_at_once():
    assert rate("Pendulum", "straight", 40)[0] == 0


# -- chance ----------------------------------------------------------------------------------------


def test_the_gate_opens_as_often_as_said_and_holds_who_came_in_vain():
    solved, episodes = rate("Stochastic", "straight", 300)
    gates = np.array([episode.states[-1, 2] for episode in episodes])
    assert set(gates) == {-1.0, 1.0}
    assert (gates == 1).mean() == pytest.approx(0.6, abs=0.09)
    assert solved == (gates == 1).mean()
    assert rate("Stochastic", "scripted", 300)[0] == 1.0
    assert rate("Stochastic", "straight", 50, chance=0.0)[0] == 0

    env = make_batch("Stochastic", 200, chance=0.0)  # to the gate, and then on by the door
    env.reset(seed=0)
    ever = np.zeros(200, bool)
    places = []
    for _ in range(env.budget):
        waits = env.state[:, 2] == 0
        env.step(np.where(waits[:, None], env.straight(), env.expert()))
        ever |= env.success()
        places.append(env.state[:, :2].copy())
    assert (env.state[:, 2] == -1).all() and not ever.any()
    assert (places[-1] == places[len(places) // 2]).all()


def test_before_it_is_tried_the_gate_looks_the_same():
    env, row = make_batch("Stochastic", 2), [12, 14, 53, 14, 32, 14, 50]
    seen, _ = env.reset(seed=0, options={"tasks": [[*row, 0.1], [*row, 0.9]]})
    assert (seen["pixels"][0] == seen["pixels"][1]).all()
    for _ in range(7):
        seen, *_ = env.step(np.tile((1.0, 0.0), (2, 1)))
    assert env.state[:, 2].tolist() == [1, -1]
    assert (seen["pixels"][0] != seen["pixels"][1]).any()


# -- physics ---------------------------------------------------------------------------------------


def test_the_pendulum_moves_as_gymnasium_s():
    theirs, ours = gymnasium.make("Pendulum-v1").unwrapped, make_batch("Pendulum", 1)
    ours.reset(seed=0, options={"tasks": [(2.0, -1.0)]})
    theirs.reset(seed=0)
    theirs.state = np.array([2.0, -1.0])
    for action in np.random.default_rng(0).uniform(-1, 1, 60):
        _, reward, *_ = theirs.step(np.array([2 * action]))
        _, rewards, *_ = ours.step([[action]])
        assert ours.state[0] == pytest.approx(theirs.state, abs=1e-5)
        assert rewards[0] == pytest.approx(reward, abs=1e-5)


def test_the_cart_moves_as_gymnasium_s():
    theirs, ours = gymnasium.make("CartPole-v1").unwrapped, make_batch("CartPole", 1)
    ours.reset(seed=0, options={"tasks": [(0.1, 0.0, 0.05, -0.1)]})
    theirs.reset(seed=0)
    theirs.state = np.array([0.1, 0.0, 0.05, -0.1])
    for kind in (1, 0, 0, 1, 1, 0):
        for _ in range(2):
            theirs.step(kind)
        ours.step([[2.0 * kind - 1]])
        assert ours.state[0] == pytest.approx(np.array(theirs.state), abs=1e-6)


def test_the_cart_stops_where_the_rail_ends():
    env = make_batch("CartPole", 1)
    env.reset(seed=0)
    for _ in range(60):
        env.step([[1.0]])
    assert env.state[0, 0] <= 2.4 and env.state[0, 0] > 2.3


def test_a_push_through_the_middle_shifts_and_one_beside_it_turns():
    pose = np.zeros((1, 3))
    middle = pushed(pose, np.array([[-HALF, 0.0]]), np.array([[1.0, 0.0]]), 1.0)
    assert middle[0].tolist() == [1, 0, 0]
    source = np.random.default_rng(0)
    side = np.stack([np.full(50, -HALF), source.uniform(-HALF, HALF, 50)], axis=1)
    normal = np.tile((1.0, 0.0), (50, 1))
    after = pushed(np.zeros((50, 3)), side, normal, 0.01)
    # The point of contact recedes along the normal by the depth: nothing is left inside.
    cos, sin = np.cos(after[:, 2]), np.sin(after[:, 2])
    moved = after[:, 0] + cos * side[:, 0] - sin * side[:, 1] - side[:, 0]
    assert moved == pytest.approx(np.full(50, 0.01), rel=0.01)
    # Shift and turn lie on the normal of the ellipsoid |f|^2 + (tau / c)^2.
    torque = -side[:, 1] * 1.0
    assert after[:, 2] / after[:, 0] == pytest.approx(torque / ARM**2)


def test_what_a_state_tells_of_a_turn_is_the_same_after_a_quarter_and_is_read_back():
    pose = np.random.default_rng(0).uniform(-10, 10, (50, 3))
    quarters = pose + np.pi / 2 * np.array((0, 0, 1))
    assert told_of(quarters) == pytest.approx(told_of(pose))
    back = pose_of(np.concatenate([np.zeros((50, 2)), told_of(pose)], axis=1))
    assert back[:, :2] == pytest.approx(pose[:, :2])
    left = (back[:, 2] - pose[:, 2]) / (np.pi / 2)
    assert left == pytest.approx(np.rint(left), abs=1e-9)


def test_the_arm_is_that_of_even_pressure_on_a_square():
    grid = (np.arange(400) + 0.5) / 400 * 2 * HALF - HALF
    assert np.hypot(*np.meshgrid(grid, grid)).mean() == pytest.approx(ARM, rel=1e-3)


def test_the_finger_never_stays_inside_the_block_and_a_block_alone_rests():
    env = make_batch("PointPush", 32)
    env.reset(seed=0)
    first = env.state[:, 2:].copy()
    env.step(np.zeros((32, 2)))
    assert (env.state[:, 2:] == first).all()
    heading = np.random.default_rng(0).uniform(-np.pi, np.pi, 32)
    for step in range(100):
        way = env.state[:, 2:4] - env.state[:, :2] if step % 3 else np.zeros((32, 2))
        env.step(way + 0.3 * np.stack([np.cos(heading), np.sin(heading)], axis=1))
        depth = contact(env.state[:, :2], pose_of(env.state))[2]
        assert depth.max() < 0.6 * FINGER
        assert (env.state[:, 2:4] > 4 + HALF).all() and (env.state[:, 2:4] < 60 - HALF).all()
    assert (np.abs(env.state[:, 2:] - first).max(axis=1) > 3).mean() > 0.8


@pytest.mark.parametrize("id", ["TwoRooms", "Rooms"])
def test_episodes_of_one_scene_share_its_layout_and_nothing_else(id):
    env, seeds = make_batch(id, 40, scenes=3), list(range(100, 140))
    env.reset(seed=seeds)
    scenes = np.array([scene_of(seed, 3) for seed in seeds])
    assert set(scenes) == {0, 1, 2}
    for scene in range(3):
        layouts = env.task[scenes == scene, 4:]
        assert (layouts == layouts[0]).all()
    assert len(np.unique(env.task[:, 4:], axis=0)) == 3
    assert len(np.unique(env.task[:, :4], axis=0)) == 40
    with pytest.raises(UserError, match="scenes must be 1 or more"):
        make_batch(id, 1, scenes=0)
