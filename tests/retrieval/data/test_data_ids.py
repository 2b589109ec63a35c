"""Ids: one spelling per id, look-alikes refused, rows there and back."""

import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.data import IdMap, canonical_id
from retrieval.data.ids import IdEncoder

GOOD_TEXT = st.text(st.characters(exclude_categories=("Cc", "Cf", "Cs", "Zl", "Zp")), min_size=1, max_size=40).filter(
    lambda text: (
        text == text.strip() and unicodedata.normalize("NFC", text).strip() == unicodedata.normalize("NFC", text)
    )
)


@pytest.mark.parametrize("text", ["007", "1e5", "true", "NA", "null", "None", "nan", "a b", "B00TNNWMXI", "日本", "-1"])
def test_ordinary_text_is_its_own_canonical_id(text):
    assert canonical_id(text) == text


def test_whole_number_and_its_digits_are_one_id():
    assert canonical_id(12) == canonical_id("12") == canonical_id(np.int64(12)) == "12"


def test_whole_number_beyond_fractions_keeps_its_last_digit():
    assert canonical_id(2**53 + 1) == "9007199254740993"


def test_composed_and_decomposed_spelling_are_one_id():
    assert canonical_id("Cafe\u0301") == canonical_id("Caf\u00e9") == "Caf\u00e9"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "is empty"),
        ("   ", "is empty"),
        (" 012 ", "begins or ends with white space"),
        ("a\x00b", r"control character \(U\+0000\)"),
        ("a\x1b[31m", r"control character \(U\+001B\)"),
        ("a\nb", r"control character \(U\+000A\)"),
        ("a\u202eb", r"invisible character \(U\+202E\)"),
        ("a\u200bb", r"invisible character \(U\+200B\)"),
        ("\ud800", r"surrogate pair \(U\+D800\)"),
        ("a\u2028b", r"line separator \(U\+2028\)"),
        ("x" * 257, "longer than 256"),
        pytest.param("x" * 1_000_000, "longer than 256", id="1 MB"),
        pytest.param(10**5000, "longer than 256", id="number of 5,001 digits"),
        (True, "is bool"),
        (12.0, "is float"),
        (None, "is missing"),
        (b"12", "is bytes"),
    ],
)
def test_what_cannot_be_an_id_is_refused_with_the_reason(value, message):
    with pytest.raises(ValueError, match=message):
        canonical_id(value)


def test_error_does_not_repeat_a_huge_id():
    with pytest.raises(ValueError, match="longer than 256") as caught:
        canonical_id("x" * 1_000_000)
    assert len(str(caught.value)) < 200


def test_longest_allowed_id_is_kept():
    assert canonical_id("x" * 256) == "x" * 256


@given(GOOD_TEXT)
def test_canonical_id_of_a_canonical_id_is_itself(text):
    assert canonical_id(canonical_id(text)) == canonical_id(text)


@given(st.lists(GOOD_TEXT, unique_by=lambda text: unicodedata.normalize("NFC", text), max_size=30))
def test_ids_to_rows_and_back_gives_the_same_ids(texts):
    ids = IdMap.of(texts)
    rows = ids.to_rows(texts)
    assert rows.dtype == np.int64
    assert rows.tolist() == list(range(len(texts)))
    assert ids.to_ids(rows).tolist() == [canonical_id(text) for text in texts]


def test_ids_keep_the_order_they_were_given_in():
    assert IdMap.of(["b", "a", 10]).ids.tolist() == ["b", "a", "10"]


def test_repeated_ids_are_refused_and_named():
    with pytest.raises(ValueError, match="2 repeated: a, 1"):
        IdMap.of(["a", "1", "a", 1, "b", "a"])


def test_unknown_ids_are_named():
    with pytest.raises(KeyError, match="2 unknown: x, y; check the spelling"):
        IdMap.of(["a"]).to_rows(["a", "x", "y"])


def test_unknown_and_malformed_ids_have_row_minus_one_when_ignored():
    assert IdMap.of(["a", "7"]).to_rows(["x", "a", "", 7, None], unknown="ignore").tolist() == [-1, 0, -1, 1, -1]


def test_row_minus_one_has_no_id():
    with pytest.raises(ValueError, match=r"expected rows 0\.\.1, got -1"):
        IdMap.of(["a", "b"]).to_ids([0, -1])


def test_map_of_no_ids_answers_no_rows():
    assert len(IdMap.of([])) == 0
    assert IdMap.of([]).to_rows([]).tolist() == []


def test_contains_takes_any_spelling():
    ids = IdMap.of(["Caf\u00e9", "12"])
    assert "Cafe\u0301" in ids
    assert 12 in ids
    assert True not in ids


def test_maps_with_the_same_ids_are_equal():
    assert IdMap.of(["a", 1]) == IdMap.of(["a", "1"])
    assert IdMap.of(["a", "b"]) != IdMap.of(["b", "a"])


@given(st.lists(st.lists(GOOD_TEXT, max_size=10), max_size=4))
def test_encoding_chunk_by_chunk_equals_encoding_one_by_one(chunks):
    encoder, order = IdEncoder(), {}
    for chunk in chunks:
        rows, faults = encoder.encode(pa.array(chunk, pa.string()))
        expected = [order.setdefault(canonical_id(text), len(order)) for text in chunk]
        assert rows.tolist() == expected
        assert not faults
    assert encoder.to_map().ids.tolist() == list(order)


def test_encoder_tells_true_from_one():
    rows, faults = IdEncoder().encode([1, True, "1", 1.0])
    assert rows[0] == rows[2] == 0
    assert sorted(reason for _, reason in faults) == [
        "is bool, expected text or a whole number",
        "is float, expected text or a whole number",
    ]


def test_encoder_of_a_known_map_refuses_other_ids():
    rows, faults = IdEncoder(IdMap.of(["a", "b"])).encode(pa.array(["b", "c", None]))
    assert rows[0] == 1
    assert {reason: mask.tolist() for mask, reason in faults} == {
        "is not in the item table": [False, True, False],
        "is missing": [False, False, True],
    }
