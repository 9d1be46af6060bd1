import pytest
import torch

from labeltune.inference import pad, token_batches


@pytest.mark.parametrize("seed", range(3))
def test_token_batches_hold_every_row_once_within_the_budget(seed: int) -> None:
    lengths = torch.randint(1, 50, (80,), generator=torch.Generator().manual_seed(seed)).tolist()
    batches = token_batches(lengths, 64)
    assert sorted(row for batch in batches for row in batch) == list(range(80))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= 64


def test_padding_is_on_the_right_and_masked() -> None:
    batch = pad([[7, 8, 9], [5]], pad_id=3)
    assert batch["input_ids"].tolist() == [[7, 8, 9], [5, 3, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
