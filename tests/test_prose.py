"""How the source reads (CONTRIBUTING.md), held by numbers: `python tests/support/prose.py` lists every offence."""

import prose


def test_the_source_reads_plainly():
    result = prose.measure(prose.python_files(prose.SOURCES))
    assert result.functions > 2000
    assert not [str(offence) for offence in result.offences]
    assert 100 * result.comments / result.code_lines >= prose.MIN_COMMENTS


def test_the_measure_finds_what_it_is_for(tmp_path, monkeypatch):
    monkeypatch.setattr(prose, "ROOT", tmp_path)
    (tmp_path / "bad.py").write_text(
        '"""What is done here, by whoever wants it, is told in more than ten words, and that is too many."""\n\n\n'
        "class Twice:\n    pass\n\n\ndef work():\n    found = 1\n    return found\n",
        encoding="utf-8",
    )
    (tmp_path / "other.py").write_text("class Twice:\n    pass\n", encoding="utf-8")
    rules = {offence.rule for offence in prose.measure(prose.python_files(["bad.py", "other.py"])).offences}
    assert rules == {"long first sentence", "relative opening", "quaint word", "participle", "class name twice"}
