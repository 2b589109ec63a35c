"""Tables and JSON for a terminal: columns in line, and no title that drives the terminal."""

from __future__ import annotations

import json
import logging

import pytest

from retrieval.cli import main
from retrieval.cli_show import show_list
from retrieval.results import Recommendation, RecommendationList
from retrieval.terminal import printable, render_json, render_table, text_width

EVIL = "\x1b]0;owned\x07 red\ncat \u202ednim\u200b \x9b31m \U0001f468\u200d\U0001f469"


def test_no_control_character_of_a_title_reaches_the_terminal(recommender, capsys):
    found = RecommendationList((Recommendation("x\x1b[2J", 1, 0.5, EVIL, reasons=(EVIL,)),), None, EVIL)
    show_list(recommender, found, explain=True)
    show_list(recommender, found, as_json=True)
    out = capsys.readouterr().out
    assert not set(out.replace("\n", "")) & set("\x1b\x07\x9b\u202e")
    assert json.loads(out[out.index("{") :])["items"][0]["title"] == EVIL


def test_printable_keeps_what_belongs_to_a_script():
    assert printable("a\tb\r\nc") == "a b c"
    assert (
        printable("\u0646\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645")
        == "\u0646\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"
    )
    assert printable("a\u202eb\x1b\ud800") == "ab"


def test_wide_and_long_titles_keep_the_columns_in_line():
    table = render_table(["title", "n"], [["\u732b\u732b", "1"], ["e\u0301", "2"], ["x" * 99, "3"]], right=["n"])
    assert {text_width(line) for line in table.splitlines()} == {60 + 2 + 1}
    assert table.splitlines()[3].endswith("x\u2026  3")


def test_json_refuses_what_json_cannot_hold():
    with pytest.raises(ValueError, match="not JSON compliant"):
        render_json({"score": float("nan")})


def test_verbose_shows_the_steps_of_ours(bundle):
    assert main(["-v", "check", str(bundle)]) == 0
    assert logging.getLogger("retrieval").isEnabledFor(logging.INFO)
    assert not logging.getLogger("transformers").isEnabledFor(logging.WARNING)
    assert main(["check", str(bundle)]) == 0
    assert not logging.getLogger("retrieval").isEnabledFor(logging.INFO)
