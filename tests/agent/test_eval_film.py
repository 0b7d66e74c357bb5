"""The film of an evaluation: what `explain()` says of a decision is what is drawn of it."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from jepa_video.agent.drawn import GAP, LINE, PLAN, SOFT, VIA, Replayed
from jepa_video.agent.eval_film import ROW, Meter, film
from jepa_video.agent.guide import guided
from jepa_video.agent.trials import Trial, choose_tasks, play_trials
from jepa_video.envs import make_batch
from tests.agent.test_agent import agent

WIDE = 256


def row_of(pixels, number, colour):
    """Columns of a term's row that have a colour in its middle, where the bar is."""
    middle = pixels[ROW * number + ROW // 2]
    return np.flatnonzero((middle == colour).all(axis=-1))


def trial(terms=(), mode="mode2", sub_goals=(), steps=2):
    states = np.array([[10.0 + 2 * time, 12.0] for time in range(steps + 1)], np.float32)
    plans = [states[time:] + np.float32(1.0) for time in range(steps)] if mode else []
    return Trial(
        7, False, False, steps, None, 0.0, states, np.zeros((steps, 2)), np.array([50.0, 40.0]),
        [mode] * steps if mode else [], plans, {}, list(sub_goals), list(terms),
    )  # fmt: skip


def scene(*trials, id="TwoRooms"):
    env = make_batch(id, len(trials), budget=9)
    seen, _ = env.reset(seed=7)
    frames = [np.repeat(seen["pixels"][:1], one.steps + 1, axis=0) for one in trials]
    return Replayed(env, list(trials), frames, seen.get("goal"), True)


# -- terms -----------------------------------------------------------------------------------------


def test_a_term_that_doubles_has_a_bar_twice_as_long_and_so_it_is_in_each_episode():
    one = trial([{"goal": 2.0, "zone": 1.0}, {"goal": 4.0, "zone": 0.0}])
    other = trial([{"goal": 8.0}, {"goal": 1.0}])
    meter = Meter.of([one, other])
    assert meter == Meter(["goal", "zone"], 0.0, 8.0)
    long = {}
    for terms in (*one.terms, *other.terms):
        bars = meter.drawn(terms, WIDE, True)
        assert bars.shape == (2 * ROW, WIDE, 3)
        for number, name in enumerate(meter.names):
            long.setdefault(terms.get(name), len(row_of(bars, number, PLAN)))
    assert long[None] == long[0.0] == 0 and long[8.0] > WIDE / 3
    for value in (1.0, 2.0, 4.0):
        assert abs(long[2 * value] - 2 * long[value]) <= 1


def test_what_is_gained_goes_to_the_other_side():
    meter = Meter.of([trial([{"reward": -3.0, "effort": 1.0}])])
    bars = meter.drawn({"reward": -3.0, "effort": 1.0}, WIDE, True)
    gained, paid = (row_of(bars, number, PLAN) for number in range(2))
    assert gained.max() < paid.min() <= gained.max() + 2
    assert abs(len(gained) - 3 * len(paid)) <= 2


def test_bars_of_a_plan_are_pink_and_those_of_a_reaction_that_would_be_held_are_grey():
    terms = [{"goal": 2.0}] * 2
    planned, reacted = (film(scene(trial(terms, mode)))[0] for mode in ("mode2", "mode1"))
    for picture, colour, none in ((planned, PLAN, SOFT), (reacted, SOFT, PLAN)):
        below = picture[WIDE + LINE :]
        assert len(row_of(below, 0, colour)) > WIDE / 3 and not len(row_of(below, 0, none))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_term_that_is_no_number_has_no_bar_and_spoils_no_other(value):
    terms = {"goal": 2.0, "critic": value}
    meter = Meter.of([trial([terms])])
    assert meter.high == 2.0
    bars = meter.drawn(terms, WIDE, True)
    assert len(row_of(bars, 0, PLAN)) > WIDE / 3 and not len(row_of(bars, 1, PLAN))


@pytest.mark.parametrize("mode", ["mode1", ""])
def test_without_terms_nothing_is_drawn_below(mode):
    pictures = film(scene(trial(mode=mode), trial(mode=mode, terms=[{}, {}])))
    assert pictures.shape[1] == WIDE + LINE + GAP
    assert film(scene(trial([{"goal": 1.0}] * 2))).shape[1] == WIDE + LINE + ROW + GAP


def test_an_episode_that_is_over_has_no_cost_any_more():
    short, long = (trial([{"goal": 2.0}] * steps, steps=steps) for steps in (1, 2))
    pictures = film(scene(short, long))[:, WIDE + LINE :]
    left, right = pictures[:, :, : WIDE + GAP], pictures[:, :, WIDE + GAP :]
    assert [len(row_of(part, 0, PLAN)) > 0 for part in left[:3]] == [True, False, False]
    assert [len(row_of(part, 0, PLAN)) > 0 for part in right[:3]] == [True, True, False]


# -- sub-goals -------------------------------------------------------------------------------------


def test_the_marker_of_a_sub_goal_is_where_the_sub_goal_is_and_when():
    place = np.array([40.0, 21.0], np.float32)
    pictures = film(scene(trial(sub_goals=[None, place])))
    blue = (pictures == VIA).all(axis=-1)
    assert [bool(one.any()) for one in blue[:3]] == [False, True, False]
    rows, columns = np.nonzero(blue[1])
    scale = WIDE // 64
    middle = (rows.min() + rows.max()) / 2, (columns.min() + columns.max()) / 2
    np.testing.assert_allclose(middle, (place[::-1] + 0.5) * scale, atol=1)


def test_where_states_have_no_places_the_sub_goal_is_painted_in_a_corner():
    env = make_batch("Pendulum", 1, budget=9)
    seen, told = env.reset(seed=7)
    others = told["state"] * np.float32(-1)
    steps = np.repeat(told["state"], 3, axis=0)
    one = replace(trial(sub_goals=[others[0], None]), states=steps, imagined=[])
    frames = np.repeat(seen["pixels"], 3, axis=0)
    pictures = film(Replayed(env, [one], [frames], None, True))
    corner = pictures[:2, : WIDE // 4, : WIDE // 4]
    assert (corner[0, 0] == VIA).all() and not (corner[1] == VIA).all(axis=-1).any()
    size = WIDE // 4 - 4
    for state, there in ((others, True), (told["state"], False)):
        painted = Image.fromarray(env.paint(state.astype(float), np.array([0]))[0])
        small = np.asarray(painted.resize((size, size), Image.Resampling.BICUBIC))
        assert np.array_equal(corner[0, 2:-2, 2:-2], small) == there


@pytest.mark.parametrize("reach", [1e-6, 1e6])
def test_a_trial_keeps_the_terms_of_its_decisions_and_what_they_aimed_at_on_the_way(reach):
    env = make_batch("TwoRooms", 2, budget=4)
    tasks, player = guided(env, choose_tasks(env, 2, 0), 1), agent("mode2", reach=reach)
    trials = play_trials(env, player, tasks).trials
    told = player.explain()
    for i, one in enumerate(trials):
        assert len(one.terms) == len(one.sub_goals) == one.steps == 4
        assert one.terms[-1] == {name: part[i] for name, part in told.terms.items()}
        if reach > 1:  # all places are the same place, the goal too
            assert one.sub_goals == [None] * 4
            continue
        for aimed in one.sub_goals:  # of which none was reached
            np.testing.assert_allclose(aimed, told.sub_goal[i], atol=1e-3)
