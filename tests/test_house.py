"""The order of the house: who imports whom, how long things are, what may not be written down."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jepa_video

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "jepa_video"
# A room knows the storeys below its own. On the ground floor nobody knows a neighbour either.
STOREYS = (
    {"errors", "randomness", "distributed", "heap", "watched"},
    {"data", "models", "energies", "envs"},
    {"training"},
    {"evaluation", "agent", "interop", "bench"},
    {"doctor"},
    {"cli"},
    {"__init__", "__main__"},
)
STOREY = {room: i for i, rooms in enumerate(STOREYS) for room in rooms}
STRANGERS = STOREYS[1]
LONGEST_FUNCTION = 70
LONGEST_FILE = 450
LIGHT = ("torch", "lightning", "numpy", "timm", "jsonargparse", "matplotlib", "wandb", "av")


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def reached(node: ast.AST, path: Path) -> list[str]:
    """Rooms of the package that an import statement reaches."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif not isinstance(node, ast.ImportFrom):
        return []
    elif node.level:
        base = path.relative_to(ROOT).parts[: -node.level]
        module = [node.module] if node.module else []
        names = [".".join([*base, *module, alias.name]) for alias in node.names]
    else:
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    parts = [name.split(".") for name in names if name.startswith("jepa_video.")]
    return [part[1] for part in parts if part[1] in STOREY]


def against(room: str, other: str) -> bool:
    """Whether `room` may not import `other`."""
    if room == other:
        return False
    if STOREY[other] > STOREY[room]:
        return True
    return room in STRANGERS and other in STRANGERS


def test_every_module_lives_in_a_known_room():
    assert {room_of(path) for path in modules()} <= STOREY.keys()


def test_a_room_knows_nobody_above_and_no_stranger_beside():
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno} imports {other}"
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text()))
        for other in reached(node, path)
        if against(room_of(path), other)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("file", "line", "refused"),
    [
        ("models/x.py", "from ..training.target import ema_update", True),
        ("models/x.py", "from ..data.masks import MultiBlock", True),
        ("models/x.py", "from .. import training", True),
        ("data/x.py", "import jepa_video.cli.options", True),
        ("data/x.py", "from jepa_video.errors import UserError", False),
        ("models/x.py", "from .rope import Grid", False),
        ("training/x.py", "from ..data.masks import MultiBlock", False),
        ("training/x.py", "from jepa_video import evaluation", True),
        ("cli/x.py", "from ..evaluation.report import write_report", False),
    ],
)
def test_the_order_is_read_off_every_form_of_import(file, line, refused):
    path = PACKAGE / file
    (node,) = ast.parse(line).body
    others = reached(node, path)
    assert others
    assert any(against(room_of(path), other) for other in others) == refused


def test_no_function_and_no_file_is_too_long():
    long = []
    for path in modules():
        source = path.read_text()
        if source.count("\n") > LONGEST_FILE:
            long.append(f"{path.relative_to(ROOT)}: {source.count(chr(10))} lines")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > LONGEST_FUNCTION:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {lines}")
    assert long == []


def test_importing_the_package_loads_nothing_heavy():
    code = f"import sys, jepa_video; print([m for m in {LIGHT} if m in sys.modules])"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["pretrain", "--help"]])
def test_help_answers_without_torch(words):
    code = (
        "import sys; from jepa_video.cli import main\n"
        f"code = main({words}); sys.exit(code or int('torch' in sys.modules))"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True)


def test_every_public_name_is_there():
    for name in jepa_video.__all__:
        assert getattr(jepa_video, name) is not None
    assert set(jepa_video.__all__) <= set(dir(jepa_video))
    with pytest.raises(AttributeError, match="no attribute 'load_decoder'"):
        _ = jepa_video.load_decoder


def tracked() -> list[Path]:
    """Text files of the repository, or of the unpacked archive where there is no git."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.split("\0")
        paths = [ROOT / name for name in listed if name]
    except (OSError, subprocess.CalledProcessError):
        paths = [p for p in ROOT.rglob("*") if p.suffix in (".py", ".md", ".yaml", ".ipynb")]
    return [path for path in paths if path.is_file()]


def test_no_path_of_one_machine_is_written_down():
    pattern = re.compile(r"(?<![\w.~$}/-])/(?:work|root|home|Users|opt|tmp)(?:/|\b(?=[\"'\s]))")
    assert pattern.search("see /home/ann/clips") and not pattern.search("see ~/home/clips")
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for path in tracked()
        if path.suffix != ".png" and path != Path(__file__).resolve()
        for number, line in enumerate(path.read_text(errors="ignore").splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []


BARE = """
import importlib, pkgutil, sys
for name in sys.argv[1:]:
    sys.modules[name] = None
import jepa_video
for module in pkgutil.walk_packages(jepa_video.__path__, "jepa_video."):
    if not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except ImportError:
            print(module.name)
"""
EXTRAS = ("gymnasium", "pyarrow", "sklearn", "peft", "onnx", "onnxruntime", "onnxscript")
CONTROL = {"envs", "agent"}  # rooms that `pip install 'jepa-video[control]'` opens


def test_pip_install_without_extras_brings_all_that_video_needs() -> None:
    """The dev extra has everything, so that no other test would see it."""
    command = [sys.executable, "-c", BARE, *EXTRAS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    broken = {name for name in done.stdout.split() if name.split(".")[1] not in CONTROL}
    assert broken <= {"jepa_video.cli.agent_job"}
