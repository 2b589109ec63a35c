"""What stands in a prompt, in which order, and what is cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank import RerankInput
from rerank.prompt import MAX_TEXT_CHARS, Template, Tokens, candidate_ids, context_ids
from tests.rerank.test_reranker import reranker
from tests.tiny import SPECIAL_TOKENS, VOCABULARY, tiny_tokenizer

FRAME = Template(opening=(90,), joiner=(91,), closing=(92,), ending=(93,))


def items(*lengths: int) -> list[np.ndarray]:
    """Item number n of length l is n, n, ... (l times)."""
    return [np.full(length, number, dtype=np.int32) for number, length in enumerate(lengths)]


def test_context_is_opening_items_and_closing_newest_first() -> None:
    found = context_ids(items(2, 1), FRAME, budget=20, newest_last=False)
    assert found.tolist() == [90, 0, 0, 91, 1, 92]


def test_newest_last_turns_the_items_round() -> None:
    found = context_ids(items(2, 1), FRAME, budget=20, newest_last=True)
    assert found.tolist() == [90, 1, 91, 0, 0, 92]


@pytest.mark.parametrize("newest_last", [False, True])
def test_the_oldest_item_is_cut_first(newest_last: bool) -> None:
    found = context_ids(items(2, 3, 4), FRAME, budget=10, newest_last=newest_last).tolist()
    # 10 = opening 1 + closing 1 + newest 2 + joiner 1 + second 3 + joiner 1 + one token of the third
    assert found.count(0) == 2
    assert found.count(1) == 3
    assert found.count(2) == 1
    assert len(found) == 10


def test_a_newest_item_over_the_budget_keeps_its_beginning() -> None:
    found = context_ids([np.arange(50)], FRAME, budget=5, newest_last=False)
    assert found.tolist() == [90, 0, 1, 2, 92]


def test_a_budget_below_the_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="history budget of 2 tokens cannot hold the frame"):
        context_ids(items(1), FRAME, budget=2, newest_last=False)


def test_an_empty_history_is_the_frame_alone() -> None:
    assert context_ids([], FRAME, budget=5, newest_last=False).tolist() == [90, 92]


def test_a_candidate_keeps_its_beginning_and_its_ending() -> None:
    assert candidate_ids(np.arange(50), FRAME, budget=4).tolist() == [0, 1, 2, 93]
    assert candidate_ids(np.arange(0), FRAME, budget=4).tolist() == [93]
    assert candidate_ids(np.arange(0), Template(), budget=4, filler=(1,)).tolist() == [1]


@pytest.mark.parametrize("special", SPECIAL_TOKENS)
def test_special_tokens_in_texts_are_spelled_out(special: str) -> None:
    tokens = Tokens(tiny_tokenizer())
    ids = tokens.ids([f"red {special} cat {special}"])[0]
    unknown = VOCABULARY.index("[UNK]")  # how brackets are spelled in this vocabulary
    assert not {VOCABULARY.index(name) for name in SPECIAL_TOKENS} - {unknown} & set(ids.tolist()) - {unknown}
    assert VOCABULARY.index("red") in ids


@given(st.text(max_size=60))
def test_no_text_becomes_a_control_token(text: str) -> None:
    ids = Tokens(tiny_tokenizer()).ids([text + " [SEP]"])[0].tolist()
    assert not {VOCABULARY.index(name) for name in ("[PAD]", "[CLS]", "[SEP]", "[MASK]")} & set(ids)


def test_texts_are_cut_before_tokenizing() -> None:
    assert len(Tokens(tiny_tokenizer()).ids(["cat " * 500_000])[0]) == MAX_TEXT_CHARS / len("cat ")


def test_lone_surrogates_and_nul_do_not_break_tokenizing() -> None:
    plain, odd = Tokens(tiny_tokenizer()).ids(["red cat", "red\0 cat"])
    assert plain.tolist() == odd.tolist()
    assert len(Tokens(tiny_tokenizer()).ids(["red \ud800 cat"])[0]) >= 2


def test_what_is_not_text_is_refused_with_its_row() -> None:
    with pytest.raises(ValueError, match="text 1: expected str, got float nan"):
        Tokens(tiny_tokenizer()).ids(["a", float("nan")])  # type: ignore[list-item]


def test_remembered_texts_are_bounded_and_right() -> None:
    tokens = Tokens(tiny_tokenizer(), max_remembered=2)
    first = [ids.tolist() for ids in tokens.ids(["red", "cat", "dog", "red"])]
    assert first == [ids.tolist() for ids in tokens.ids(["red", "cat", "dog", "red"])]
    assert first[0] == first[3] == [VOCABULARY.index("red")]
    assert len(tokens._remembered) == 2


def test_pair_template_is_the_tokenizers_own() -> None:
    cls, sep = VOCABULARY.index("[CLS]"), VOCABULARY.index("[SEP]")
    assert Template.of_pairs(tiny_tokenizer()) == Template((cls,), (), (sep,), (sep,))
    assert Template.from_dict(FRAME.to_dict()) == FRAME


def test_white_space_does_not_push_words_out() -> None:
    spaced, plain = Tokens(tiny_tokenizer()).ids(["\n" * 4_100 + "red" + " " * 4_100 + "cat", "red cat"])
    assert spaced.tolist() == plain.tolist()


def test_blank_texts_do_not_hide_older_history() -> None:
    words = reranker(history_tokens=40, candidate_tokens=20).encoder
    plain = words.encode(RerankInput(("red cat", "old book"), ("dog",))).context_ids
    blank = words.encode(RerankInput((*("", " \n", "\0") * 45, "red cat", "", "old book"), ("dog",))).context_ids
    assert plain.tolist() == blank.tolist()
