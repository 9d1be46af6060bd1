"""Fine-tuning: dataset, trainer, checkpoints, tracking.

Modules: `dataset`, `finetune`, `trainer`, `checkpoints`, `tracking`.
"""
