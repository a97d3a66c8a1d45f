"""Rules of the layout (docs/architecture.md), checked on the source: imports, sizes of folders, mirrored tests."""

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {"isnet": ROOT / "isnet", "trainplane": ROOT / "platform" / "trainplane", "jobs": ROOT / "jobs"}
MOST_MODULES = 20
MOST_LINES = 400
FORBIDDEN = {
    "isnet": {"trainplane", "jobs", "ray", "mlflow", "boto3", "botocore", "webdataset"},
    "trainplane": {"isnet", "jobs"},
    "jobs": set(),
}


def imported_packages(file: Path) -> set[str]:
    """Top-level packages that a file imports, wherever in it the import stands."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("room", sorted(SOURCES))
def test_rooms_import_only_what_they_may(room):
    files = sorted(SOURCES[room].rglob("*.py"))
    assert files
    broken = {str(f.relative_to(ROOT)): bad for f in files if (bad := imported_packages(f) & FORBIDDEN[room])}
    assert not broken


def imported_modules(file: Path) -> set[str]:
    """Returns dotted names that a file imports, wherever in it the import stands."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_only_commands_and_benchmarks_import_commands():
    callers = {
        str(file.relative_to(ROOT))
        for file in (ROOT / "jobs").rglob("*.py")
        if any(name == "jobs.commands" or name.startswith("jobs.commands.") for name in imported_modules(file))
    }
    assert not {file for file in callers if not file.startswith(("jobs/commands/", "jobs/bench/"))}


def test_no_folder_has_more_than_20_modules():
    folders = Counter(
        file.parent.relative_to(ROOT)
        for root in (*SOURCES.values(), ROOT / "tests")
        for file in root.rglob("*.py")
        if file.name != "__init__.py"
    )
    assert folders
    assert not {str(folder): count for folder, count in folders.items() if count > MOST_MODULES}


def test_no_module_has_more_than_400_lines():
    lengths = {
        str(file.relative_to(ROOT)): file.read_text(encoding="utf-8").count("\n")
        for root in SOURCES.values()
        for file in root.rglob("*.py")
    }
    assert not {name: length for name, length in lengths.items() if length > MOST_LINES}


@pytest.mark.parametrize("room", sorted(SOURCES))
def test_folders_of_tests_mirror_those_of_the_source(room):
    tests = ROOT / "tests" / room
    folders = {file.parent.relative_to(tests) for file in tests.rglob("test_*.py")}
    assert folders
    assert not {str(folder) for folder in folders if not (SOURCES[room] / folder).is_dir()}


@pytest.mark.parametrize("page", ["architecture.md", "glossary.md"])
def test_every_path_of_the_documentation_exists(page):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    paths = [path for path in re.findall(r"`([\w./-]+/[\w./-]*)`", text) if path.partition("/")[0] != "RUN"]
    assert len(paths) > 20
    assert not [path for path in paths if not (ROOT / path).exists()]


def test_platform_folder_is_no_package():
    assert not (ROOT / "platform" / "__init__.py").exists()


def test_standard_platform_module_is_not_shadowed_from_the_root():
    code = "import platform, torch; print(platform.python_version(), platform.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    version, file = done.stdout.split()
    assert version == sys.version.split()[0]
    assert "trainplane" not in file
    assert not Path(file).is_relative_to(ROOT / "platform")


def test_top_level_holds_the_agreed_folders_only():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    folders = {name.partition("/")[0] for name in tracked if "/" in name}
    assert folders <= {"platform", "isnet", "jobs", "infra", "tests", "docs", ".ci"}


def test_importing_isnet_pulls_in_nothing_of_the_cluster():
    code = "import sys, isnet; print(sorted({m.partition('.')[0] for m in sys.modules} & set(sys.argv[1:])))"
    heavy = ["ray", "mlflow", "boto3", "timm", "torchvision", "cv2", "skimage", "torchmetrics", "onnx"]
    done = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom jobs.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as stop:\n    assert stop.code == 0\n"
        "print(sorted({m.partition('.')[0] for m in sys.modules} & {'torch', 'ray', 'mlflow', 'numpy', 'pydantic'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
    assert "inpaint" in done.stdout
