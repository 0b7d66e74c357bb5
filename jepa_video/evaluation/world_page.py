"""The pages of a run of `world` and of `agent fit`: their own sections, beside the shared ones."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

from ..envs.registry import env_call, env_words
from .charts import Series, line_chart, number
from .page import missing, note, paragraph, section, table
from .runfiles import RunFiles, finite
from .sections import (
    Sections,
    album,
    chart_grid,
    charts_of,
    charts_section,
    config_section,
    data_section,
    every_number,
    in_order,
    resume_lines,
    state_notes,
    tiles,
)
from .words import final_remark, share
from .world_pictures import FOLDER, PATHS

SHOWN: Final = (1, 2, 5, 10, 20, 40)  # horizons of the table
MOST_CHARTS: Final = 12  # of read-off states
DASHBOARD: Final = ("rankme", "std")
FORESIGHT: Final = ("energy_over_copy", "read_error")
SPEED: Final = ("data_wait",)

# The world model


def world_result(files: RunFiles) -> str:
    """The headline, the few numbers that matter, and the error by steps ahead."""
    parts = state_notes(files)
    told = files.summary
    if told is None:
        return section("result", "Result", *parts)
    parts.append(f'<p class="lead">{escape(world_headline(told))}</p>')
    meaning = {
        "rankme": "RankMe: directions that the states fill",
        "state_std": "standard deviation of the states",
        "reward_explained": "of the reward's variance is read off the states",
        "windows_per_second": "windows a second",
        "data_wait": "of the time waiting for data",
    }
    parts.append(tiles(told, meaning, ("explained", "data_wait")))
    parts.append(_horizon_table(told))
    parts.append(every_number(told))
    return section("result", "Result", *parts)


def world_headline(told: Mapping[str, Any]) -> str:
    """How far it sees, in one or two sentences."""
    over = _numbers(told.get("energy_over_copy"))
    if not over:
        return "No episode was held out, so that nothing says how far this world model sees."
    text = (
        f"On held-out episodes, what is foretold {len(over)} steps ahead has {share(over[-1])} of "
        f"the error of standing still; one step ahead {share(over[0])}."
    )
    read, copied = (_numbers(told.get(f"read_error_{who}")) for who in ("foretold", "copied"))
    floor = finite(told.get("read_error"))
    if read and copied and floor is not None:
        text += (
            f" The true state that is read off it is {number(read[-1])} away from the truth, in "
            f"its own unit; {number(floor)} off states that are not foretold, and "
            f"{number(copied[-1])} where nothing moves."
        )
    return text


def _numbers(values: Any) -> list[float]:
    """Finite numbers of a list; empty where it is none."""
    found = [finite(value) for value in values] if isinstance(values, list) else []
    return [value for value in found if value is not None]


def _horizon_table(told: Mapping[str, Any]) -> str:
    over = _numbers(told.get("energy_over_copy"))
    rows = [
        ("error of the foretold state, standing still = 1", over),
        ("true state read off it, distance", _numbers(told.get("read_error_foretold"))),
        ("the same, nothing moves", _numbers(told.get("read_error_copied"))),
    ]
    shown = [step for step in SHOWN if step <= len(over)]
    shown += [len(over)] if over and len(over) not in shown else []
    cells = [
        [name, *(number(values[step - 1]) for step in shown)]
        for name, values in rows
        if values and len(values) == len(over)
    ]
    return table(("steps ahead", *map(str, shown)), cells) if cells else ""


def world_future(files: RunFiles) -> str:
    """Error against steps ahead, while it trained, and a few windows drawn."""
    parts = [*_horizon_charts(files.summary or {})]
    while_training = [pair for pair in in_order(charts_of(files.metrics)) if pair[0] in FORESIGHT]
    if while_training:
        parts += ["<h3>While it trained</h3>", chart_grid(while_training)]
    parts += album(files.folder / FOLDER)
    parts += _paths(files)
    return section("future", "How far it sees", *parts)


def _horizon_charts(told: Mapping[str, Any]) -> list[str]:
    over = _numbers(told.get("energy_over_copy"))
    if not over:
        return [missing("The error against steps ahead is measured when the run ends.")]
    remark = "Means over held-out windows."
    lines = [("foretold", over), ("nothing moves", [1.0] * len(over))]
    figures = [_horizon_chart("Squared error of the state, standing still = 1", lines, remark)]
    read, copied = (_numbers(told.get(f"read_error_{who}")) for who in ("foretold", "copied"))
    floor = finite(told.get("read_error"))
    if read and copied and floor is not None:
        lines = [("off foretold states", read), ("nothing moves", copied)]
        lines.append(("off true states", [floor] * len(read)))
        title = "Distance of the true state from what is read off"
        figures.append(_horizon_chart(title, lines, f"{remark} In the state's own unit."))
    return [f'<div class="charts">{"".join(figures)}</div>']


def _horizon_chart(title: str, lines: Sequence[tuple[str, list[float]]], remark: str) -> str:
    series = [Series(name, range(1, len(values) + 1), values) for name, values in lines]
    return line_chart(title, series, remark, zero=True, unit="steps ahead")


def _paths(files: RunFiles) -> list[str]:
    """The numbers of the states in the drawn windows: true, read off, foretold."""
    try:
        told = json.loads((files.folder / FOLDER / PATHS).read_text(encoding="utf-8"))
        names, windows = told["names"], told["windows"]
        charts = [
            _path_chart(window, names[at] if names else f"number {at + 1}", at)
            for window in windows[: max(1, MOST_CHARTS // len(windows[0]["true"][0]))]
            for at in range(len(window["true"][0]))
        ]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, LookupError, TypeError) as error:
        return [note("bad", "Damaged file.", f"{PATHS}: {error}")]
    about = (
        "The same windows as numbers: the environment's true state, what is read off the state of "
        "each true frame, and what is read off the states that are foretold."
    )
    grid = f'<div class="charts">{"".join(charts)}</div>'
    return ["<h3>States that are read off</h3>", paragraph(about), grid]


def _path_chart(window: Mapping[str, Any], name: str, at: int) -> str:
    known, count = int(window["known"]), len(window["true"])
    last = window["read"][known - 1]
    foretold = [row[at] for row in (last, *window["foretold"])]
    series = [
        Series("true", range(count), [row[at] for row in window["true"]]),
        Series("read off", range(count), [row[at] for row in window["read"]]),
        Series("foretold", range(known - 1, count), foretold),
    ]
    where = f"episode {window['episode']}, frame {window['start']}"
    return line_chart(f"{name}: {window['rank']}", series, where, unit="frame")


def world_collapse(files: RunFiles) -> str:
    """Verdict in words and the measures behind it."""
    kind, word, told = final_remark(files.summary) or (
        "plain", "Unknown.", "The states are judged while the run trains and when it ends.",
    )  # fmt: skip
    shown = [pair for pair in in_order(charts_of(files.metrics)) if pair[0] in DASHBOARD]
    text = "metrics.csv has no figures of the states: no window was held out, or none was due yet."
    parts = [note(kind, word, told), chart_grid(shown) if shown else missing(text)]
    return section("collapse", "Have the states collapsed?", *parts)


def world_use(files: RunFiles) -> str:
    """The lines that load the world model, and what comes next."""
    if not (files.folder / "world" / "config.json").exists():
        text = "The folder world/ is written when the training ends: nothing to load yet."
        return section("use", "Use the world model", missing(text), *resume_lines(files))
    code = (
        "from jepa_video import load_world\n\n"
        f'world = load_world("{files.name}")\n'
        "states = world.encode(video)  # uint8 B T C H W to B T P D\n"
        "future = world.imagine(states[:, -1:], actions)  # B H A in [-1, 1] to B H P D\n"
        "world.read(future)  # the environment's own numbers, B H S\n"
    )
    env, root = _env(files), (files.settings.get("data") or {}).get("root", "EPISODES")
    commands = (
        f"jepa-video agent fit --checkpoint {files.name} --data.root {root}\n"
        f"jepa-video agent eval {env} --policy mode2 --checkpoint {files.name}\n"
    )
    next_ = paragraph("An agent around it, with a critic and a policy; or planning as it is:")
    parts = [f"<pre>{escape(code)}</pre>", next_, f"<pre>{escape(commands)}</pre>"]
    return section("use", "Use the world model", *parts)


def _env(files: RunFiles) -> str:
    told = files.summary or {}
    return env_words(told.get("env"), told.get("settings") or {})


ABOUT_WORLD: Final = (
    "Each term as it enters the loss, with its weight. Where the encoder has settled, the terms "
    "that shape the states stand still. A falling loss alone proves nothing: read it with the next "
    "section."
)
WORLD_SECTIONS: Final[Sections] = {
    "result": ("Result", world_result),
    "future": ("How far it sees", world_future),
    "curves": (
        "Curves",
        lambda files: charts_section(files, ABOUT_WORLD, (*DASHBOARD, *FORESIGHT), "Windows"),
    ),
    "collapse": ("Collapse", world_collapse),
    "data": ("Data", data_section),
    "config": ("Config", config_section),
    "use": ("Use it", world_use),
}

# The agent


def agent_result(files: RunFiles) -> str:
    """What was learned from what; how good it is, only playing can tell."""
    parts, told = state_notes(files), files.summary
    if told is None:
        return section("result", "Result", *parts)
    learn = files.settings.get("learn") or {}
    lead = (
        f"A critic and a policy, learned in imagination in {told.get('steps', 0):,} steps from the "
        f"states of {told.get('episodes', 0):,} episodes. How good they are, only playing tells."
    )
    meaning = {
        "reach": "reach: distance of states that count as the same place",
        "doubt": "doubt above which auto mode plans",
        "states_per_second": "states a second",
        "data_wait": "of the time waiting for data",
    }
    cost = told.get("cost") or files.settings.get("cost") or {}
    rows = {
        "world model": files.settings.get("checkpoint"),
        "memory": (files.settings.get("data") or {}).get("root"),
        "policy learns from": learn.get("source"),
        "places on its chart": told.get("places"),
        "cost": ", ".join(f"{weight:g} {name}" for name, weight in cost.items()),
        "planner": ", ".join(f"{k} {v}" for k, v in (files.settings.get("search") or {}).items()),
    }
    known = [(name, escape(str(value))) for name, value in rows.items() if value]
    parts += [f'<p class="lead">{escape(lead)}</p>', tiles(told, meaning, SPEED)]
    parts += [table(("made of", ""), known), every_number(told)]
    return section("result", "Result", *parts)


def agent_rounds(files: RunFiles) -> str:
    """What the agent met when it went out, and what mode 1 reaches after each round."""
    rows = (files.summary or {}).get("rounds")
    if not rows:
        text = "It learned from memory alone; agent fit --rounds.count N lets it go out."
        return section("rounds", "Rounds", missing(text))
    lead = (
        "In each round the agent played episodes, and learned from them. What mode 1 reaches is "
        "measured before the first and after each, on the same tasks in layouts of their own; the "
        "interval is Wilson's, 95 %. Strange is the energy of a step of the round, before it was "
        "learned from, over that of memory's."
    )
    heads = (
        "round", "actions so far", "episodes", "of them solved", "strange", "mode 1 solves",
        "return",
    )  # fmt: skip
    told = [
        (
            str(row["round"]) if row["round"] else "before",
            f"{row['env_steps']:,}",
            str(row["gathered"]),
            f"{row['gathered_solved']:.1%}" if row["round"] else "–",
            _strange(row),
            f"{row['solved']:.1%} ({row['low']:.1%} to {row['high']:.1%})",
            f"{row['total']:.3g}",
        )
        for row in rows
    ]
    crashes = sum(row["crashes"] for row in rows)
    parts = [f'<p class="lead">{escape(lead)}</p>', _rounds_chart(files), table(heads, told)]
    kept = (files.summary or {}).get("kept", rows[-1]["round"])  # earlier runs held the last
    parts.append(f"<p>The run holds the agent after round {kept}.</p>")
    if crashes:
        parts.append(f"<p>The environment crashed {crashes} times and was started again.</p>")
    return section("rounds", "Rounds", *parts)


def _strange(row: dict[str, Any]) -> str:
    """How strange a round was, and whether the dynamics stood still; earlier tables do not tell."""
    if (told := row.get("strange")) is None:
        return "–"
    return f"{told:.2f}" + ("" if row["corrected"] else ", dynamics frozen")


def _rounds_chart(files: RunFiles) -> str:
    """What mode 1 reaches against all steps that were learned from, memory's and its own."""
    told = files.summary or {}
    each = (told.get("settings") or {}).get("repeat") or 1  # steps in which an action is held
    rows, before = told["rounds"], each * (told.get("memory_steps") or 0)
    goal = bool((told.get("cost") or {}).get("goal"))
    steps = [before + each * row["env_steps"] for row in rows]
    if goal:
        title, values = "Share that mode 1 solves", [row["solved"] for row in rows]
        errors = [(row["high"] - row["low"]) / 4 for row in rows]
    else:
        title, values = "Return of mode 1", [row["total"] for row in rows]
        errors = [row.get("error") or math.nan for row in rows]  # earlier tables have none
    remark = f"The first {before:,} steps are memory's. " if before else ""
    remark += "The band is of two standard errors." if any(map(math.isfinite, errors)) else ""
    line = Series("mode 1", steps, values, errors)
    return line_chart(title, [line], remark, unit="environment step")


def agent_use(files: RunFiles) -> str:
    """The lines that play it."""
    if not (files.folder / "agent" / "config.json").exists():
        text = "The folder agent/ is written when the training ends: nothing to play yet."
        return section("use", "Play it", missing(text), *resume_lines(files))
    env, told = _env(files), files.summary or {}
    call = env_call(told.get("env"), told.get("settings") or {}, 4)
    command = f"jepa-video agent eval {env} --policy mode1,mode2,auto --checkpoint {files.name}\n"
    code = (
        "from jepa_video import Agent\nfrom jepa_video.envs import make_batch\n\n"
        f"env = {call}\n"
        f'agent = Agent.load("{files.name}", env)\n'
        "seeds = [0, 1, 2, 3]\n"
        "agent.reset(seeds)\n"
        "observation, _ = env.reset(seed=seeds)\n"
        "for _ in range(env.budget):\n"
        "    observation, *_ = env.step(agent.act(observation))\n"
        "print(agent.explain())  # mode, sub-goal, cost by term, the imagined future\n"
    )
    parts = [f"<pre>{escape(part)}</pre>" for part in (command, code)]
    return section("use", "Play it", *parts)


ABOUT_AGENT: Final = (
    "The critic's error is against the best of the imagined plans, valued by a slow copy of "
    "itself; that of a critic of ways is its loss on memory's steps. Doubt is what auto mode looks "
    "at: where the networks disagree more than a threshold, or the agent gets no nearer, it plans. "
    "Worth is the error of what a plan is told to save, by which mode learned plans."
)
AGENT_SECTIONS: Final[Sections] = {
    "result": ("Result", agent_result),
    "rounds": ("Rounds", agent_rounds),
    "curves": ("Curves", lambda files: charts_section(files, ABOUT_AGENT, (), "States")),
    "data": ("Data", data_section),
    "config": ("Config", config_section),
    "use": ("Play it", agent_use),
}
