"""Settings: one typed section per stage, and how defaults, conf/ and params.yaml merge into `resolved.yaml`.

Modules: `base`, `data`, `model`, `evaluation` (the sections), `resolve` (the merge).

>>> from labeltune.config.model import Train
>>> Train(seed=1).epochs == Train(seed=2).epochs
True
"""
