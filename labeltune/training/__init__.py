"""Fine-tuning: layer selection, dataset, trainer, checkpoints, tracking.

Modules: `layer_selection`, `dataset`, `finetune`, `trainer`, `checkpoints`, `tracking`.
"""
