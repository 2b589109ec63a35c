"""One context text and n candidate texts in, n scores out: a GPT-2 cross-encoder."""
