"""Probing the base model before fine-tuning: hidden states, their cache, regressions on them, and layer selection.

Modules: `hidden_states`, `feature_cache`, `regression`, `layer_probes`.
"""
