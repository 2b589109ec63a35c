"""What the models read: parts vanish when they are empty, budgets hold, and the newest item always stands."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from retrieval.text import (
    MAX_CHARACTERS,
    TOKENS_PER_WORD,
    TextConfig,
    clean_text,
    cut_to_tokens,
    estimated_tokens,
    history_text,
    history_texts,
    item_text,
    item_texts,
    template_fields,
)

CONFIG = TextConfig()


def words(n: int, word: str = "cat") -> str:
    return " ".join([word] * n)


def test_all_parts_stand_in_the_order_of_the_template():
    item = {"title": "Red cat", "category": "toy", "brand": "Acme", "description": "It purrs"}
    assert item_text(item, CONFIG) == "Red cat. toy. Acme. It purrs"


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({"title": "Red cat", "description": "It purrs"}, "Red cat. It purrs"),
        ({"title": "Red cat", "category": "", "brand": None, "description": float("nan")}, "Red cat"),
        ({"category": "toy", "brand": "Acme"}, "toy. Acme"),
        ({"description": "It purrs"}, "It purrs"),
        ({"title": "   ", "category": "\t"}, ""),
        ({"title": pd.NA, "category": np.float32("nan"), "brand": pd.NaT}, ""),
        ({}, ""),
    ],
)
def test_a_missing_part_vanishes_with_its_separator(item, expected):
    assert item_text(item, CONFIG) == expected


def test_a_separator_is_not_doubled_after_a_title_that_ends_like_one():
    assert item_text({"title": "Mr. Cat.", "category": "toy"}, CONFIG) == "Mr. Cat. toy"


def test_the_words_round_a_missing_field_vanish_too():
    config = TextConfig(item_template="{title} by {brand} ({year})", budgets={})
    assert item_text({"title": "Cat", "brand": "Acme", "year": 1999}, config) == "Cat by Acme (1999)"
    assert item_text({"title": "Cat", "brand": "Acme"}, config) == "Cat by Acme"
    assert item_text({"title": "Cat"}, config) == "Cat"
    assert item_text({}, config) == ""


@pytest.mark.parametrize("value", [1999, 3.5, True, "1999"])
def test_a_part_that_is_no_text_is_written_as_one(value):
    assert item_text({"title": value}, CONFIG) == str(value)


def test_each_part_is_cut_to_its_own_budget():
    config = TextConfig(budgets={"title": 13, "description": 26})
    text = item_text({"title": words(50, "cat"), "description": words(50, "dog")}, config)
    # 1.3 tokens a word: 13 tokens are 10 words, 26 are 20.
    assert text == f"{words(10, 'cat')}. {words(20, 'dog')}"


def test_a_long_description_does_not_push_the_title_out():
    text = item_text({"title": "Red cat", "description": words(10_000)}, CONFIG)
    assert text.startswith("Red cat. cat cat")
    assert estimated_tokens(text) <= 96 + 48


@pytest.mark.parametrize("max_tokens", [1, 2, 5, 13, 100])
def test_cutting_keeps_whole_words_within_the_budget_and_at_least_one(max_tokens):
    text = " ".join(f"word{number}" for number in range(30))
    cut = cut_to_tokens(text, max_tokens)
    assert cut
    assert text.split(" ")[: len(cut.split(" "))] == cut.split(" ")
    assert len(cut.split(" ")) == 1 or len(cut.split(" ")) * TOKENS_PER_WORD <= max_tokens


def test_control_characters_and_white_space_become_one_space():
    assert clean_text(" a\x00b\x1b\x7fc\x85 \r\n\t d  ") == "a b c d"


def test_a_lone_surrogate_becomes_text_that_can_be_encoded():
    assert clean_text("a\ud800b").encode("utf-8") == b"a?b"


def test_look_alikes_are_one_text():
    assert clean_text("cafe\u0301") == clean_text("caf\u00e9") == "café"


def test_a_text_of_a_megabyte_is_cut_before_any_model_sees_it():
    assert len(clean_text("x" * 1_000_000)) == MAX_CHARACTERS
    assert len(clean_text("a\x00" * 500_000)) <= MAX_CHARACTERS
    assert len(item_text({"title": words(300_000), "description": words(300_000)}, TextConfig(budgets={}))) <= (
        2 * MAX_CHARACTERS + 2
    )


def test_control_tokens_in_a_title_stay_ordinary_characters():
    assert item_text({"title": "[SEP] <|endoftext|>"}, CONFIG) == "[SEP] <|endoftext|>"


def test_braces_in_a_title_are_not_read_as_fields():
    assert item_text({"title": "{brand} {0} {"}, CONFIG) == "{brand} {0} {"


def test_a_field_that_no_item_has_leaves_no_trace():
    assert item_text({"title": "Cat"}, TextConfig(item_template="{title} - {nothing}")) == "Cat"


def test_doubled_braces_of_a_template_are_plain_ones():
    assert item_text({"title": "Cat"}, TextConfig(item_template="{{{title}}}")) == "{Cat}"


@pytest.mark.parametrize("template", ["", "title", "{}", "{{title}}"])
def test_a_template_without_a_field_is_refused(template):
    with pytest.raises(ValueError, match=r"item_template: expected at least one field such as \{title\}"):
        TextConfig(item_template=template)


@pytest.mark.parametrize("template", ["{title", "title}", "{title} {"])
def test_a_template_with_an_unbalanced_brace_is_refused_by_name(template):
    with pytest.raises(ValueError, match=r"history_template: an unbalanced brace"):
        TextConfig(history_template=template)


def test_fields_are_named_in_their_order():
    assert template_fields("{title}: {brand} {title}") == ["title", "brand", "title"]


@pytest.mark.parametrize("options", [{"history_items": 0}, {"history_tokens": 0}])
def test_a_history_of_nothing_is_refused(options):
    with pytest.raises(ValueError, match="expected 1 or more"):
        TextConfig(**options)


def test_a_budget_of_nothing_is_refused_by_its_part():
    with pytest.raises(ValueError, match=r"budgets\['title'\]: expected 1 or more tokens, got 0"):
        TextConfig(budgets={"title": 0})


def test_a_history_begins_with_the_newest_item():
    assert history_text(["new", "old", "older"], CONFIG) == "new; old; older"


def test_a_history_keeps_as_many_of_the_newest_as_asked():
    assert history_texts(["a", "b", "c"], TextConfig(history_items=2)) == ("a", "b")


def test_a_history_drops_the_oldest_when_the_budget_is_full():
    # 10 words are 13 tokens: two items fill 26, the third does not fit.
    newest_first = [words(10, "new"), words(10, "old"), words(10, "older")]
    assert history_texts(newest_first, TextConfig(history_tokens=26)) == tuple(newest_first[:2])


@pytest.mark.parametrize("history_tokens", [1, 10, 192])
def test_the_newest_item_is_never_cut_and_never_dropped(history_tokens):
    config = TextConfig(history_tokens=history_tokens, history_items=1)
    long = words(1_000)
    assert history_texts([long, "old"], config) == (long,)
    assert history_text([long, "old"], config) == long


def test_an_older_item_that_would_fit_does_not_overtake_one_that_does_not():
    newest_first = ["new", words(100), "old"]
    assert history_texts(newest_first, TextConfig(history_tokens=10)) == ("new",)


def test_an_empty_history_is_an_empty_text():
    assert history_text([], CONFIG) == ""
    assert history_text(["", ""], CONFIG) == ""


def test_empty_titles_take_no_place_in_a_history():
    assert history_text(["", "new", "", "old"], TextConfig(history_items=2)) == "new; old"


def test_many_texts_keep_their_order():
    titles = [{"title": "a"}, {"title": ""}, {"title": "c"}]
    assert item_texts(titles, CONFIG) == ["a", "", "c"]
    assert item_texts([{"title": "a", "brand": "b"}], CONFIG, template="{brand}") == ["b"]
