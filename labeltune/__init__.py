"""labeltune fine-tunes a language model to label text, reproducibly, and tells how far to trust the result."""

import logging

__version__ = "0.1.0"

# PEFT imports bitsandbytes, which looks for a kernel that nothing here needs and warns when it isn't there.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
