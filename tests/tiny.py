"""Random-weight models of a few thousand parameters, built in memory: real code runs, nothing is downloaded.

Everything is seeded: the same call gives the same weights. Words outside `WORDS` become single letters (every
ASCII letter and digit is in the vocabulary), so any English text has tokens and few collapse to `[UNK]`.
"""

from __future__ import annotations

import string
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    GPT2Config,
    GPT2ForSequenceClassification,
    PreTrainedTokenizerFast,
)

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_TEXT = (
    "the a of and red blue green small big old new cat dog bird fish tree house car book lamp chair table "
    "toy soap paint tool pen cup hat shoe film drama comedy action space war love robot music kitchen garden "
    "outdoor science guide kit set pack ##s ##er ##ing . , : ; - ' !"
)
WORDS = tuple(_TEXT.split())
LETTERS = tuple(string.ascii_lowercase + string.digits)
VOCABULARY = tuple(dict.fromkeys((*SPECIAL_TOKENS, *WORDS, *LETTERS, *(f"##{letter}" for letter in LETTERS))))


def tiny_tokenizer(*, max_length: int = 128) -> PreTrainedTokenizerFast:
    """A real lower-casing WordPiece tokenizer of `len(VOCABULARY)` tokens, with BERT's special tokens."""
    tokenizer = Tokenizer(models.WordPiece(vocab={word: row for row, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)  # type: ignore[assignment]
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # type: ignore[assignment]
    tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", VOCABULARY.index("[CLS]")), ("[SEP]", VOCABULARY.index("[SEP]"))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def tiny_gpt2(
    *,
    n_layer: int = 3,
    n_embd: int = 16,
    n_head: int = 2,
    n_positions: int = 96,
    vocab_size: int = len(VOCABULARY),
    pad_token_id: int | None = VOCABULARY.index("[PAD]"),
    seed: int = 0,
) -> GPT2ForSequenceClassification:
    """A GPT-2 classifier with one label, in evaluation mode, float32.

    Weights are drawn ten times wider than GPT-2's initial values, so that scores of texts differ clearly.
    """
    config = GPT2Config(
        vocab_size=vocab_size,
        n_positions=n_positions,
        n_embd=n_embd,
        n_layer=n_layer,
        n_head=n_head,
        initializer_range=0.2,
        pad_token_id=pad_token_id,
        bos_token_id=VOCABULARY.index("[CLS]"),
        eos_token_id=VOCABULARY.index("[SEP]"),
    )
    config.num_labels = 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GPT2ForSequenceClassification(config).eval()


def tiny_sentence_transformer(directory: str | Path, *, dim: int = 16, seed: int = 0) -> Path:
    """Write a two-layer BERT sentence-transformers directory (mean pooling, rows of length 1).

    `SentenceTransformer(str(path))` reads the path returned. The tokenizer is the words of `VOCABULARY`.
    """
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    directory = Path(directory)
    bert = directory / "bert"
    bert.mkdir(parents=True, exist_ok=True)
    (bert / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    BertTokenizer(str(bert / "vocab.txt"), model_max_length=64).save_pretrained(str(bert))
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=dim,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * dim,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        BertModel(config).eval().save_pretrained(str(bert))
    transformer = Transformer(str(bert))
    modules = [transformer, Pooling(dim, pooling_mode="mean"), Normalize()]
    saved = directory / "encoder"
    SentenceTransformer(modules=modules, device="cpu").save(str(saved), create_model_card=False)
    return saved
