"""Evaluation: metrics with intervals, calibration, baselines, robustness, and a worklist of rows to review.

Modules: `metrics`, `calibration`, `baselines`, `probe_baseline`, `comparison`, `worklist`; package: `robustness`.
"""
