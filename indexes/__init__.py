"""Vectors in, rows and scores out: FAISS index families behind one protocol."""
