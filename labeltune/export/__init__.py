"""Exports that need no labeltune: a Transformers folder, ONNX, a folder for the Hub.

Modules: `export` (the command), `formats`, `model_card`, and `bundle` (scripts that are copied into an export).
"""
