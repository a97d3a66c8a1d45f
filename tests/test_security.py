"""What docs/security.md says of loading and listening, read from the source itself."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = [file for room in ("isnet", "platform", "jobs") for file in (ROOT / room).rglob("*.py")]


def calls(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def keyword(node, name):
    return next((ast.unparse(entry.value) for entry in node.keywords if entry.arg == name), None)


def violations(source):
    """Calls that would run what they read, or hand a sentence to a shell."""
    found = []
    for name, node in calls(ast.parse(source)):
        if name in ("pickle.load", "pickle.loads", "pickle.Unpickler", "eval", "exec", "os.system", "marshal.loads"):
            found.append(name)
        if name in ("joblib.load", "numpy.load", "np.load", "dill.load", "dill.loads") and keyword(
            node, "allow_pickle"
        ):
            found.append(f"{name} with pickles")
        if name == "torch.load" and keyword(node, "weights_only") != "True":
            found.append("torch.load without weights_only")
        if name in ("yaml.load", "yaml.unsafe_load", "yaml.full_load") and "Safe" not in (
            keyword(node, "Loader") or ""
        ):
            found.append("yaml.load without a safe loader")
        if keyword(node, "shell") == "True":
            found.append(f"{name} through a shell")
    return found


def test_nothing_is_unpickled_and_no_shell_is_asked():
    found = {str(file.relative_to(ROOT)): violations(file.read_text(encoding="utf-8")) for file in FILES}
    assert len(found) > 100
    assert not {file: calls for file, calls in found.items() if calls}


@pytest.mark.parametrize(
    "line",
    [
        "pickle.loads(x)",
        "torch.load(x)",
        "torch.load(x, weights_only=False)",
        "yaml.load(x, Loader=yaml.Loader)",
        "subprocess.run(x, shell=True)",
        "np.load(x, allow_pickle=True)",
    ],
)
def test_the_search_would_find_it(line):
    assert violations(line)


def test_one_reader_of_pickles_of_our_own_and_it_imports_nothing():
    names = re.compile(r"\bpickle\._Unpickler\b|\(pickle\.Unpickler\)")
    readers = [file for file in FILES if names.search(file.read_text(encoding="utf-8"))]
    assert [str(file.relative_to(ROOT)) for file in readers] == ["isnet/formats/restricted_pickle.py"]
    source = readers[0].read_text(encoding="utf-8")
    assert "def find_class" in source
    assert not re.search(r"super\(\)\.find_class|importlib|__import__|sys\.modules|getattr\(", source)


def test_no_server_of_ours_binds_every_address():
    # infra/ does, behind network policies and published on loopback (tests/infra).
    assert not [file for file in FILES if "0.0.0.0" in file.read_text(encoding="utf-8")]
