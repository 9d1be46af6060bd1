"""Models: base models, heads, adapters, packing, and forward passes from tokens to logits `[batch, num_labels]`.

Modules: `base_models`, `architectures`, `device`, `prompts`, `label_scoring`, `packing`, `classifiers`, `adapters`,
`builder`, `forward`, and the package `kernels`.
"""
