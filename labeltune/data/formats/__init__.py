"""The formats of tables, each giving the same rows.

Modules: `delimited` (CSV, TSV), `json_records` (JSON, JSON Lines, a text a line), `columnar` (Parquet, Arrow), and
`rows`, which holds what they give. `labeltune.data.readers` chooses between them.

>>> from labeltune.data.formats.rows import as_text
>>> as_text(3.0, "rows.csv:2", "text")
'3'
"""
