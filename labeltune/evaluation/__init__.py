"""Evaluation: metrics with intervals, calibration, baselines, robustness, and rows worth a second look.

Modules: `metrics`, `calibration`, `baselines`, `probe_baseline`, `comparison`, `worklist`; package: `robustness`.
"""
