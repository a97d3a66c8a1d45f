"""What a mistyped command line is answered with: one sentence, and what to type instead."""

import json
import os
import re
import resource
import subprocess
import sys
from contextlib import suppress

import pytest

from jobs.cli.arguments import build_parser, parse
from jobs.cli.examples import EXAMPLES
from trainplane.errors import UserError


def parsers(parser):
    """A parser, and those of all commands and actions below it."""
    yield parser
    for child in parser.actions.values():
        yield from parsers(child)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("trian demo", "there is no command `isnet trian`; did you mean `isnet train`?"),
        ("Train demo", "did you mean `isnet train`?"),
        ("data pakc a b", "did you mean `isnet data pack`?"),
        ("model list", "did you mean `isnet models`?"),
        ("promote isnet 3", "did you mean `isnet models promote`?"),
        ("logs", "did you mean `isnet jobs logs`?"),
        ("list", "`isnet runs list`"),
        ("sweep search_demo", "did you mean `isnet tune`?"),
        ("settings", "did you mean `isnet config show`?"),
        ("frobnicate", "there is no command `isnet frobnicate`; there are demo, data, config, train"),
        ("help trian", "did you mean `isnet train`?"),
        ("train", "`isnet train` needs PRESET; for example: isnet train demo"),
        ("tune", "`isnet tune` needs SEARCH; for example: isnet tune search_demo"),
        ("models", "`isnet models` needs ACTION; there are list, show, register"),
        ("data show", "`isnet data show` needs DATASET"),
        ("data show a b", "'b' is one word too many for `isnet data show`"),
        ("train demo --steps 5", "settings have no dashes: write train.steps=5"),
        ("train --steps 5 demo", "settings have no dashes: write train.steps=5"),
        ("train demo --train.steps=5", "settings have no dashes: write train.steps=5"),
        ("train demo --batch-size 4", "write train.global_batch=4"),
        ("train demo --learning-rate=1e-3", "write train.lr_g=1e-3"),
        ("train demo -steps=5", "write train.steps=5"),
        ("train demo --device cuda", "write train.use_gpu=… (true, false or auto)"),
        ("tune search_demo --trials 3", "write search.trials=3"),
        ("plan train demo --workers 9", "write train.workers=9"),
        ("train demo --frehs", "--frehs is no option of `isnet train`; did you mean --fresh?"),
        ("ui --prot 5", "--prot is no option of `isnet ui`; did you mean --port?"),
        ("data show a --zzz", "--zzz is no option of `isnet data show`; see `isnet data show --help`"),
        ("ui --port x", "--port: 'x' is no whole number"),
        ("ui --port", "--port: expected one argument; see `isnet ui --help`"),
        ("data pack a b --kind photo", "--kind: 'photo' is not known; did you mean photos?"),
        ("completion fish", "SHELL: 'fish' is not known"),
    ],
)
def test_a_mistyped_command_is_answered_with_what_was_meant(line, sentence):
    with pytest.raises(UserError) as refusal:
        parse(line.split())
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_settings_may_stand_behind_options():
    args = parse(["train", "demo", "train.steps=3", "--fresh", "data.val=null"])
    assert (args.overrides, args.fresh) == (["train.steps=3", "data.val=null"], True)


@pytest.mark.parametrize("line", ["--json models list", "models --json list", "models list --json"])
def test_options_of_every_command_may_stand_anywhere(line):
    args = parse([*line.split(), "--context", "lab"])
    assert (args.json, args.context) == (True, "lab")
    other = parse(["models", "list"])
    assert (other.json, other.context) == (False, None)


def test_every_command_has_examples_that_parse():
    by_name = {parser.prog: parser for parser in parsers(build_parser())}
    assert set(EXAMPLES) <= set(by_name)
    for name in build_parser().actions.keys() - {"help"}:
        assert [prog for prog in EXAMPLES if f"{prog} ".startswith(f"isnet {name} ")], name
    for prog, examples in EXAMPLES.items():
        assert examples[0][1] in by_name[prog].format_help()
        for _, line in examples:
            commands = [part.split() for part in re.split(r" && |; | > .*", line)]
            for words in commands:
                if words[:1] == ["isnet"]:
                    # Help ends the program.
                    with suppress(SystemExit):
                        parse(words[1:])


@pytest.mark.parametrize("words", [["help"], ["help", "train"], ["--help"], [], ["tune", "--help"]])
def test_help_is_printed(capsys, words):
    with pytest.raises(SystemExit) as stop:
        parse(words)
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert printed.startswith("usage: isnet")
    assert "examples:" in printed
    assert ("tune show" in printed) == (words in (["help"], ["--help"], [], ["tune", "--help"]))


def test_the_version_is_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        parse(["--version"])
    assert stop.value.code == 0
    assert re.fullmatch(r"isnet \S+ \(Python 3\S+, torch \S+, ray \S+, mlflow \S+\)\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    "words", [["--help"], ["help", "train"], ["--version"], ["trian"], ["train"], ["train", "demo", "--frehs"]]
)
def test_parsing_and_help_import_nothing_heavy_and_take_little_time(words):
    code = (
        "import sys\nfrom jobs.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'ray', 'mlflow', 'numpy', 'pydantic', 'yaml', 'shtab', 'boto3'}\n"
        "sys.exit(str(heavy & {module.partition('.')[0] for module in sys.modules}))"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stderr.endswith("set()\n"), done.stderr
    # A tenth of a second where nothing else runs; twice as much where two processes share a core's cache.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


@pytest.mark.parametrize(
    ("words", "error", "remedy"),
    [
        (["trian", "--json"], "there is no command `isnet trian`", "did you mean `isnet train`?"),
        (["train", "--json"], "`isnet train` needs PRESET", "for example: isnet train demo"),
        (["train", "demo", "--json", "train.stpes=3"], "unknown setting 'train.stpes'", "did you mean train.steps=3?"),
        (["train", "dmeo", "--json"], "no preset 'dmeo'", "did you mean 'demo'?"),
        (["data", "show", "nowhere", "--json"], None, None),
        (["runs", "show", "abc", "--json"], None, None),
        (["config", "show", "demo", "data.size=40", "--json"], None, "set data.size=32 or 48"),
    ],
)
def test_with_json_a_mistake_is_one_object_with_its_remedy(isnet, words, error, remedy):
    ran = isnet(*words)
    assert ran.status == 2
    answer = ran.json()
    assert set(answer) == {"error", "remedy"}
    assert ran.err.startswith("isnet: ")
    # What people read is the same.
    assert ran.err.strip().endswith("; ".join(part for part in (answer["error"], answer["remedy"]) if part))
    if error is not None:
        assert answer["error"] == error
    if remedy is not None:
        assert remedy in answer["remedy"]


def test_a_completion_script_completes_commands_presets_and_settings(isnet, tmp_path):
    script = tmp_path / "isnet.bash"
    script.write_text(isnet("completion", "bash").out)

    def completed(*words):
        line = " ".join(f"'{word}'" for word in words)
        code = (
            f"source {script}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; "
            f"_isnet_complete isnet '{words[-1]}' '{words[-2]}'; printf '%s ' \"${{COMPREPLY[@]}}\""
        )
        done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True, env={**os.environ})
        return done.stdout.split()

    assert completed("isnet", "tra") == ["train"]
    assert completed("isnet", "data", "p") == ["pack"]
    assert completed("isnet", "train", "places2_m") == ["places2_modern", "places2_modern+laptop"]
    assert completed("isnet", "train", "demo", "train.ste") == ["train.steps="]
    assert completed("isnet", "train", "demo", "data.size=64", "loss.gan") == ["loss.gan="]
    assert completed("isnet", "tune", "show", "search_d") == ["search_demo"]
    assert completed("isnet", "data", "pack", "--kind", "m") == ["masks"]
    for shell in ("zsh", "tcsh"):
        printed = isnet("completion", shell).out
        assert "completion" in printed
        # tcsh's scripts know commands and options only.
        assert ("places2+laptop" in printed and "train.steps=" in printed) == (shell == "zsh")
    assert json.loads(isnet("completion", "zsh", "--json").out)["script"].rstrip("\n") == isnet(
        "completion", "zsh"
    ).out.rstrip("\n")
