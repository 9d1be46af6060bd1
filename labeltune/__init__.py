"""labeltune fine-tunes a language model to label text, reproducibly, and tells how far to trust the result."""

__version__ = "0.1.0"
