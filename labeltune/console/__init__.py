"""Output on the terminal. No result depends on it: its functions return nothing, and it imports nothing of labeltune.

>>> from labeltune.console.terminal import say
>>> say("3 rows")
3 rows

Modules: `terminal` (lines, tables, progress bars).
"""
