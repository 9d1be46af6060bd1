"""The stages of the pipeline, each run as `python -m stages.NAME`."""

import os

# OpenMP's threads spin while they wait. Next to any other busy process that costs up to half of the throughput of both
# (measured on 2 cores: 850 against 1,490 rounds each), so they spin only briefly; alone it costs nothing measurable.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")
# Nothing here is compiled; but bitsandbytes, which PEFT imports, asks for the compiler as it is imported: a second.
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
