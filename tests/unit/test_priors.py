import math

import pytest
import torch

from labeltune.errors import UserError
from labeltune.priors import CONTENT_FREE_TEXTS, contextual_prior, pmi_prior, pmi_prompt


def test_the_contextual_prior_is_the_log_of_the_mean_probability() -> None:
    scores = torch.tensor([[math.log(0.03), math.log(0.01)], [math.log(0.2), math.log(0.2)], [0.0, math.log(3)]])
    mean = torch.tensor([(0.75 + 0.5 + 0.25) / 3, (0.25 + 0.5 + 0.75) / 3])
    assert len(scores) == len(CONTENT_FREE_TEXTS)
    torch.testing.assert_close(contextual_prior(scores), mean.log())


def test_a_text_as_uninformative_as_the_prior_leaves_the_labels_even() -> None:
    scores = torch.tensor([[-9.0, -2.0, -4.0]])
    assert (scores - contextual_prior(scores)).softmax(1).tolist()[0] == pytest.approx([1 / 3] * 3)


def test_the_pmi_prior_is_the_score_after_the_cue_itself() -> None:
    scores = torch.tensor([[-9.0, -2.0]])
    assert pmi_prior(scores).tolist() == [-9.0, -2.0]
    assert (torch.tensor([[-7.0, -3.0]]) - pmi_prior(scores)).tolist() == [[2.0, -1.0]]


def test_the_pmi_prompt_is_the_end_of_the_template() -> None:
    assert pmi_prompt("\nLabel:") == "\nLabel:"
    for back in ("", " \n"):
        with pytest.raises(UserError, match="prompt.template has nothing after {text}"):
            pmi_prompt(back)
