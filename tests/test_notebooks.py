"""Every notebook runs from its first cell to its last; what it claims, it asserts in its cells."""

import os
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TOLD = {  # what each prints, and how many pictures it draws at least
    "01_pretrain": (("trained", "untrained"), 5),  # masks, curves, energies, features and clips
    "02_agent": (("mode 1", "mode 2, no memory", "AttributeError"), 5),  # world, critic, plans
}


def ids(path: Path) -> str:
    return path.stem


def test_there_is_a_notebook():
    assert {path.stem for path in NOTEBOOKS} == set(TOLD)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=ids)
def test_it_is_stored_without_outputs(path):
    cells = nbformat.read(path, 4).cells
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=ids)
def test_it_runs_and_its_claims_hold(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # what it writes goes when the test is done
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(path, 4)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=800, resources=resources).execute()

    text, pictures = printed(notebook)
    words, drawn = TOLD[path.stem]
    assert pictures >= drawn
    assert all(word in text for word in words)
    assert "Warning" not in text


def printed(notebook) -> tuple[str, int]:
    """All that the cells printed, and the number of pictures."""
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    text = "".join(out.text for out in outputs if out.output_type == "stream")
    return text, sum("image/png" in out.get("data", {}) for out in outputs)
