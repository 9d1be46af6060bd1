"""Robustness: `evaluate` (predictions on perturbed texts), `characters`, `words` and `editing` (the perturbations)."""
