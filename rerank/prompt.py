"""Token ids of context and candidates: what stands in the prompt, in which order, and what is cut.

The context is `opening, item, joiner, item, ..., closing`, each candidate is its text and `ending`; the score is read
at the candidate's last token. Only these frame tokens can be control tokens: texts that contain `[SEP]` or
`<|endoftext|>` are spelled out in ordinary tokens. Over budget, the OLDEST history goes first; the newest item always
stands in the prompt, and loses its own tail only if it alone is longer than the budget.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

MAX_TEXT_CHARS = 4_000
"""Texts are cut to this before tokenizing: a text of 1 MB took 0.2 to 1.2 s to tokenize only to be truncated."""
MAX_SPACED = 16
"""White space is collapsed in the first MAX_SPACED * MAX_TEXT_CHARS characters, what lies behind is not read."""

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Template:
    """The frame tokens around the texts of a prompt."""

    opening: Ids = ()
    joiner: Ids = ()
    closing: Ids = ()
    ending: Ids = ()

    @classmethod
    def for_tokenizer(cls, tokenizer: PreTrainedTokenizerBase) -> Template:
        """`[CLS] item [SEP] item [SEP]` + `candidate [SEP]` where these tokens exist, else line breaks (GPT-2)."""
        begin, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
        if isinstance(begin, int) and isinstance(sep, int):
            return cls((begin,), (sep,), (sep,), (sep,))
        line = tuple(int(token) for token in tokenizer.encode("\n", add_special_tokens=False))
        if not line:
            raise ValueError("the tokenizer has neither [CLS] and [SEP] nor a token for a line break")
        return cls((), line, line, line)

    @classmethod
    def of_pairs(cls, tokenizer: PreTrainedTokenizerBase) -> Template:
        """The frame the tokenizer itself puts around a pair of texts, as sentence-transformers uses it."""
        encoded = tokenizer("a", "a")
        sides = encoded.sequence_ids(0)
        ids = encoded["input_ids"]
        first, second = (
            [i for i, side in enumerate(sides) if side == 0],
            [i for i, side in enumerate(sides) if side == 1],
        )
        if not first or not second:
            raise ValueError("the tokenizer does not say which tokens of a pair are whose; use a fast tokenizer")
        return cls(
            opening=tuple(ids[: first[0]]),
            closing=tuple(ids[first[-1] + 1 : second[0]]),
            ending=tuple(ids[second[-1] + 1 :]),
        )

    def to_dict(self) -> dict[str, Ids]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Sequence[int]]) -> Template:
        """The inverse of `to_dict`."""
        return cls(**{name: tuple(int(token) for token in ids) for name, ids in values.items()})


class Tokens:
    """Texts to word token ids, remembered by text (a catalogue is tokenized once, not once per user)."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, max_remembered: int = 200_000, tidy: bool = True) -> None:
        self.tokenizer = tokenizer
        self.tidy = tidy
        self._remembered: dict[str, np.ndarray] = {}
        self._max_remembered = max_remembered

    def ids(self, texts: Sequence[str]) -> list[np.ndarray]:
        """int32 ids of each text, without any control token. Raises ValueError for what is not a str."""
        for row, text in enumerate(texts):
            if not isinstance(text, str):
                raise ValueError(f"text {row}: expected str, got {type(text).__name__} {text!r:.60}")
        # Looked up once: another thread may push texts out meanwhile.
        known = {text: self._remembered.get(text) for text in texts}
        missing = [text for text, ids in known.items() if ids is None]
        fresh = self._tokenize(missing) if missing else {}
        self._remember(fresh)
        known.update(fresh)
        return [ids for text in texts if (ids := known[text]) is not None]

    def forget(self) -> None:
        """Forget all remembered texts."""
        self._remembered.clear()

    def _tokenize(self, texts: Iterable[str]) -> dict[str, np.ndarray]:
        texts = list(texts)
        encoded = self.tokenizer(
            [_clean(text, tidy=self.tidy) for text in texts],
            add_special_tokens=False,
            split_special_tokens=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        return {text: np.asarray(ids, dtype=np.int32) for text, ids in zip(texts, encoded["input_ids"], strict=True)}

    def _remember(self, fresh: dict[str, np.ndarray]) -> None:
        self._remembered.update(fresh)
        while len(self._remembered) > self._max_remembered:
            self._remembered.pop(next(iter(self._remembered)), None)


def _clean(text: str, *, tidy: bool) -> str:
    """Cut, without lone surrogates; tidied: white space is single spaces, so no text can hold a frame's line break."""
    if tidy:  # before the cut, so that white space cannot push words out; of a prefix, so that it stays cheap
        text = " ".join(text[: MAX_SPACED * MAX_TEXT_CHARS].replace("\0", " ").split())
    return text[:MAX_TEXT_CHARS].encode("utf-8", "replace").decode("utf-8")


def context_ids(items: Sequence[np.ndarray], template: Template, *, budget: int, newest_last: bool) -> np.ndarray:
    """Frame and history within `budget` tokens: int64 (n_tokens,). `items` are newest first.

    Raises ValueError if the budget cannot hold the frame and one token of the newest item.
    """
    room = budget - len(template.opening) - len(template.closing)
    if room < (1 if items else 0):
        raise ValueError(
            f"history budget of {budget} tokens cannot hold the frame of "
            f"{len(template.opening) + len(template.closing)} tokens and one of the newest item; raise it"
        )
    kept: list[np.ndarray] = []
    for item in items:
        gap = len(template.joiner) if kept else 0
        if room <= gap:
            break
        kept.append(item[: room - gap])
        room -= gap + len(kept[-1])
    if newest_last:
        kept.reverse()
    parts: list[np.ndarray | Ids] = [template.opening]
    for number, item in enumerate(kept):
        parts.extend((template.joiner, item) if number else (item,))
    parts.append(template.closing)
    return np.concatenate([np.asarray(part, dtype=np.int64) for part in parts])


def candidate_ids(item: np.ndarray, template: Template, *, budget: int, filler: Ids = ()) -> np.ndarray:
    """A candidate's tokens within `budget`: its head, then the frame's ending; int64 (at least 1,).

    `filler` stands for a candidate without any token where the frame has no ending.
    """
    room = budget - len(template.ending)
    if room < 0:
        raise ValueError(f"candidate budget of {budget} tokens cannot hold the frame's {len(template.ending)}")
    ids = np.concatenate([item[:room], np.asarray(template.ending, dtype=np.int64)]).astype(np.int64)
    return ids if len(ids) else np.asarray(filler, dtype=np.int64)
