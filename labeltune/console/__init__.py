"""Output on the terminal. No result depends on it, and it imports nothing else of labeltune.

>>> from labeltune.console.terminal import say
>>> say("3 rows")
3 rows

Modules: `terminal` (lines, tables, progress bars), `streams` (encodings and control characters).
"""
