"""Data: reading tables, cleaning rows, removing near duplicates, and splitting.

Modules: `discovery`, `readers`, `formats`, `encodings`, `columns`, `loading`, `collection`, `labels`, `cleaning`,
`deduplication`, `sampling`, `splitting`.

>>> from labeltune.data.labels import LabelSet
>>> LabelSet(names=("ham", "spam"), words=("ham", "spam")).names
('ham', 'spam')
"""
