import torch

from labeltune.modeling import classifiers


def test_the_mlp_head_has_the_published_shape() -> None:
    head = classifiers.mlp_head(32, 3, 0.2, torch.Generator().manual_seed(0))
    linear = [layer for layer in head if isinstance(layer, torch.nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(32, 512), (512, 256), (256, 3)]
    assert [type(layer).__name__ for layer in head] == ["Linear", "ReLU", "Dropout"] * 2 + ["Linear"]
    assert [layer.p for layer in head if isinstance(layer, torch.nn.Dropout)] == [0.2, 0.2]
    assert all(float(layer.bias.detach().abs().sum()) == 0 for layer in linear)
    bound = (6 / (32 + 512)) ** 0.5  # Glorot and Bengio 2010, equation 16
    assert 0.95 * bound < float(linear[0].weight.detach().abs().max()) <= bound


def test_a_real_token_equal_to_the_pad_token_counts_on_either_side() -> None:
    hidden = torch.arange(12.0).reshape(2, 3, 2)
    right = torch.tensor([[1, 1, 0], [1, 1, 1]])
    left = torch.tensor([[0, 1, 1], [1, 1, 1]])
    assert classifiers.pool(hidden, right, "last").tolist() == [[2, 3], [10, 11]]
    assert classifiers.pool(hidden, left, "last").tolist() == [[4, 5], [10, 11]]
    assert classifiers.pool(hidden, right, "mean").tolist() == [[1, 2], [8, 9]]
    assert classifiers.pool(hidden, right, "first").tolist() == [[0, 1], [6, 7]]
