"""labeltune fine-tunes a language model to label text, reproducibly, and tells how far to trust the result."""

import importlib
import logging
from typing import Any

__version__ = "0.1.0"

# PEFT imports bitsandbytes, which looks for a kernel that nothing here needs and warns when it isn't there.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def __getattr__(name: str) -> Any:
    """Import what predicts when it is first asked for: it takes seconds."""
    if name not in ("Answer", "Classifier", "Predictions"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("labeltune.inference.classifier"), name)
