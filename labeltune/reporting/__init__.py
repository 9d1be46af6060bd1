"""Figures and the report. They read only what other stages wrote.

Packages: `plots` (figures), `report` (HTML and Markdown, in English and Chinese).
"""
