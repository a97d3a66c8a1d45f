"""The notebooks of docs/examples: their code cells are run in order, in one process, from an empty folder."""

import json
import os
import subprocess
import sys

import pytest
from doc_pages import ROOT

FOLDER = ROOT / "docs" / "examples"


def code_of(name):
    """Code cells, the last expression of each printed as a notebook shows it."""
    cells = json.loads((FOLDER / name).read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


# Each cell is compiled alone, as a kernel does; its last expression is shown.
RUNNER = """
import ast, json, sys
space = {"__name__": "__main__"}
for number, text in enumerate(json.loads(sys.stdin.read())):
    tree = ast.parse(text)
    last = ast.Expression(tree.body.pop().value) if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, f"cell {number}", "exec"), space)
    if last is not None:
        print(eval(compile(last, f"cell {number}", "eval"), space))
"""


def run_notebook(name, folder):
    dropped = ("ISNET_HOME", "ISNET_CONTEXT", "RAY_ADDRESS", "AWS_ENDPOINT_URL")
    environment = {key: value for key, value in os.environ.items() if key not in dropped}
    return subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=json.dumps(code_of(name)),
        cwd=folder,
        env={**environment, "ISNET_HOME": str(folder / "home")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_first_fill_runs_and_the_starter_is_better_than_the_mean_colour(tmp_path):
    ran = run_notebook("first_fill.ipynb", tmp_path)
    assert ran.returncode == 0, ran.stderr[-3000:]
    scores = {words[0]: float(words[1]) for words in map(str.split, ran.stdout.splitlines()) if words[-1:] == ["dB"]}
    assert scores["starter"] > scores["classical:mean"] + 3
    assert (tmp_path / "filled.png").stat().st_size > 10_000


@pytest.mark.real
def test_fine_tuning_ends_with_a_version_that_fills(tmp_path):
    ran = run_notebook("finetune_and_promote.ipynb", tmp_path)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "finished at step 8" in ran.stdout
    assert "my-garden/1" in ran.stdout
    assert (tmp_path / "repaired.png").exists()


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.ipynb")))
def test_a_notebook_is_stored_without_outputs(name):
    cells = json.loads((FOLDER / name).read_text(encoding="utf-8"))["cells"]
    assert not [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")]
