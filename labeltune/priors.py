"""Priors: how likely each label is before the text is read; a score minus its prior is the text's own evidence.

Priors are constant offsets, `[num_labels]`, of scores normalised in the same way.
"""

import math
from typing import Any

import torch

from labeltune import fused
from labeltune.errors import UserError
from labeltune.inference import compute_logits
from labeltune.prompts import Encoder

CONTENT_FREE_TEXTS = ("N/A", "[MASK]", "")


def contextual_prior(scores: torch.Tensor) -> torch.Tensor:
    """Return the log of the labels' mean probability, `[num_labels]`, given texts that say nothing.

    Contextual calibration (Zhao et al. 2021, arXiv:2102.09690) with its three content-free inputs.

    Args:
        scores: of `CONTENT_FREE_TEXTS` in the full template, `[texts, num_labels]`.

    >>> contextual_prior(torch.tensor([[0.9, 0.1], [0.6, 0.4]]).log()).exp()
    tensor([0.7500, 0.2500])
    """
    return scores.log_softmax(1).logsumexp(0) - math.log(len(scores))


def pmi_prompt(back: str) -> str:
    """Return the prompt without text or instruction: the end of the template, which alone says what comes next.

    Raises:
        UserError: the template ends with the text.
    """
    if not back.strip():
        raise UserError(
            "prompt.template has nothing after {text}, and the 'pmi' prior is the labels' probability after those "
            "words alone; end the template with a cue such as '\\nLabel:', or choose another prior"
        )
    return back


def pmi_prior(scores: torch.Tensor) -> torch.Tensor:
    """Return log p(label | cue), `[num_labels]`.

    Domain-conditional pointwise mutual information (Holtzman et al. 2021, arXiv:2104.08315), a ratio of two
    probabilities of the same word, so that a word is not preferred for being common.

    Args:
        scores: of `pmi_prompt` alone, `[1, num_labels]`.
    """
    return scores.squeeze(0)


def measure_prior(network: Any, encoder: Encoder, how: str) -> list[float] | None:
    """Return the prior of a network that scores label words by `how`, before it is tuned; None where it needs none.

    Raises:
        UserError: a prompt without a cue, for `pmi`.
    """
    if how not in ("pmi", "contextual"):
        return None
    if how == "contextual":
        input_ids = encoder.encode(CONTENT_FREE_TEXTS).input_ids
    else:
        input_ids = [encoder.tokenizer(pmi_prompt(encoder.template.back))["input_ids"]]
    pad_id, tokens = encoder.tokenizer.pad_token_id, fused.batch_tokens(network)
    scores = torch.from_numpy(compute_logits(network, input_ids, pad_id=pad_id, batch_tokens=tokens))
    return (contextual_prior(scores) if how == "contextual" else pmi_prior(scores)).tolist()
