"""Readers of the table formats, which all return the same kind of rows.

Modules: `delimited` (CSV, TSV), `json_records` (JSON, JSON Lines, one text per line), `columnar` (Parquet, Arrow), and
`rows`, the class that they return. `labeltune.data.readers` chooses between them.

>>> from labeltune.data.formats.rows import as_text
>>> as_text(3.0, "rows.csv:2", "text")
'3'
"""
