"""The reference of settings is what pydantic enforces."""

from typing import Annotated, Literal

from pydantic import Field
from tiny_task import TinyConfig

from trainplane.config.schema import field_at, section_at, sections, settings, takes_none, takes_text_only
from trainplane.config.section import Section, about
from trainplane.search.config import SearchFile


class Inner(Section):
    """Inner things."""

    size: int = Field(8, ge=1, multiple_of=4, description="of it", json_schema_extra=about(unit="px", also=["side"]))
    kind: Literal["a", "b"] = "a"


class Outer(Section):
    """Outer things."""

    name: str = Field(..., description="its name")
    share: Annotated[float, Field(gt=0, le=1)] | None = None
    switch: bool | Literal["auto"] = "auto"
    pair: tuple[int, float] = (1, 2.0)
    words: tuple[str, ...] = ()
    inner: Inner = Inner()
    maybe: Inner | None = None


def test_every_setting_has_its_type_in_words():
    kinds = {setting.name: setting.kind for setting in settings(Outer)}
    assert kinds == {
        "name": "text",
        "share": "number > 0 and ≤ 1 or null",
        "switch": "true, false or auto",
        "pair": "[whole number, number]",
        "words": "list of text",
        "inner.size": "whole number ≥ 1 and multiple of 4",
        "inner.kind": "a or b",
        "maybe.size": "whole number ≥ 1 and multiple of 4",
        "maybe.kind": "a or b",
    }


def test_sections_have_the_meaning_of_their_class_and_settings_their_facts():
    top, inner, _ = sections(Outer)
    assert (top.name, inner.name, inner.meaning) == ("", "inner", "Inner things.")
    assert top.settings[0].is_required
    size = inner.settings[0]
    assert (size.default, size.unit, size.meaning, size.also) == (8, "px", "of it", ("side",))


def test_a_path_leads_to_its_field_also_through_a_table():
    assert section_at(Outer, ["maybe"]) is Inner
    assert section_at(Outer, ["name"]) is None
    assert (
        field_at(TinyConfig, ["guard", "balance", "d"])
        is TinyConfig.model_fields["guard"].annotation.model_fields["balance"]
    )
    assert field_at(TinyConfig, ["guard", "nothing"]) is None
    assert field_at(SearchFile, ["overrides", "train", "steps"]) is SearchFile.model_fields["overrides"]


def test_text_is_told_from_values_that_may_be_text_among_others():
    data, train = (TinyConfig.model_fields[name].annotation for name in ("data", "train"))
    assert takes_text_only(data.model_fields["train"].annotation)
    assert takes_text_only(data.model_fields["val"].annotation)
    assert takes_none(data.model_fields["val"].annotation)
    assert takes_text_only(TinyConfig.model_fields["tracking"].annotation.model_fields["register_as"].annotation)
    for name in ("checkpoint_every", "workers", "use_gpu", "steps", "lr_schedule"):
        assert not takes_text_only(train.model_fields[name].annotation)


def test_every_setting_of_a_run_and_of_a_search_says_what_it_means():
    for schema in (TinyConfig, SearchFile):
        silent = [setting.name for setting in settings(schema) if not setting.meaning]
        assert not [name for name in silent if name not in ("task", "train.lr_g", "train.lr_d", "train.betas")]
