"""What an evaluation leaves in its folder.

    NAME/
      summary.json     all figures, the settings, the command
      episodes.csv     a line for each policy and episode
      sheet.png        a few episodes of every policy
      episodes.mp4     the same episodes as a film, of the first policy that plans if one does
      report.html      all of it on one page

Nothing of it is read again by the program.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jepa_video.agent.crashes import Crashes
from jepa_video.agent.eval_film import write_film
from jepa_video.agent.eval_page import write_page
from jepa_video.agent.eval_pictures import (
    Make,
    choose_shown,
    draw_sheet,
    plans,
    replayed,
)
from jepa_video.agent.evaluate import Evaluation
from jepa_video.agent.figures import episodes_table
from jepa_video.agent.words import rule_of
from jepa_video.training.run import write_whole


def write_evaluation(
    folder: Path, told: dict[str, Any], found: Evaluation, make: Make, crashes: Crashes
) -> tuple[dict[str, Any], dict[str, Path]]:
    """Write all files.

    Args:
        folder: made where it is missing.
        told: what was asked for; the first part of the summary.
        found: what came out.
        make: gives an environment of some episodes, to draw them.
        crashes: of the environment, while it was played and while it is drawn.

    Returns:
        the summary, and the files by what they are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    summary = told | found.summary() | {"crashes": len(crashes.told)}
    summary["rule"] = rule_of(summary)
    names = {"figures": "summary.json", "episodes": "episodes.csv", "sheet": "sheet.png"}
    names |= {"film": "episodes.mp4", "page": "report.html"}
    paths = {what: folder / name for what, name in names.items()}
    write_whole(paths["episodes"], episodes_table(found.rows, found.hard))
    write_whole(paths["figures"], json.dumps(summary, indent=2) + "\n")  # before what is drawn
    tells = "success" in found.measures
    first = {row.policy: row for row in reversed(found.rows)}  # of several seeds the first
    drawn = [row for row in found.rows if first[row.policy] is row]
    filmed = next((row for row in drawn if plans(row)), drawn[0])
    which = choose_shown(filmed, tells)
    zones = [*told.get("zones", ()), *told.get("watched", ())]
    boxes = [(zone["low"], zone["high"]) for zone in zones]
    scenes = [(row.name, replayed(make, found.tasks, row, which, tells, boxes)) for row in drawn]
    draw_sheet(scenes, paths["sheet"])
    shown = next(scene for name, scene in scenes if name == filmed.name)
    summary["drawn"] = "ways" if shown.places else "times"
    summary["film"] = {"row": filmed.name, "pictures": write_film(shown, paths["film"])}
    summary["crashes"] = len(crashes.told)
    summary["film"]["explained"] = any(any(trial.terms) for trial in shown.trials)
    write_whole(paths["figures"], json.dumps(summary, indent=2) + "\n")
    write_page(paths["page"], summary, paths["sheet"], paths["film"])
    return summary, paths
