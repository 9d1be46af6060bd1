"""labeltune fine-tunes a language model to label text, reproducibly, and reports how reliable its predictions are."""

import importlib
import logging
from typing import Any

__version__ = "0.1.0"

# PEFT imports bitsandbytes, which looks for a kernel that labeltune does not need and warns if it is missing.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def __getattr__(name: str) -> Any:
    """Import the classes for prediction on first access, because importing PyTorch takes seconds."""
    if name not in ("Answer", "Classifier", "Predictions"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("labeltune.inference.classifier"), name)
