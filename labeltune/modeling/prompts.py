"""Prompts: from a text to token ids, and encoded rows."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedTokenizerBase

from labeltune.config.model import Prompt
from labeltune.data.labels import LabelSet
from labeltune.data.normalization import UNCHANGED, Normalization
from labeltune.runtime.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

TOKENIZER_BATCH = 4096


@dataclass(frozen=True, kw_only=True)
class Template:
    """The constant text before and after a row's text, in which braces are never interpreted."""

    prefix: str
    """Text of the prompt before the row's text."""
    suffix: str
    """Text after the row's text, such as a cue for the label."""

    @classmethod
    def of(cls, prompt: Prompt, labels: LabelSet) -> "Template":
        """Fill in `{labels}` and cut the template at `{text}`.

        >>> from labeltune.config.model import Prompt
        >>> spam = LabelSet(names=("ham", "spam"), words=("ham", "spam"))
        >>> template = Template.of(Prompt(template="{labels}? {text} Label:", separator=" or "), spam)
        >>> template.render("win {labels} now")
        'ham or spam? win {labels} now Label:'
        """
        prefix, suffix = prompt.template.split("{text}")
        listed = prompt.separator.join(labels.words)
        return cls(prefix=prefix.replace("{labels}", listed), suffix=suffix.replace("{labels}", listed))

    def render(self, text: str) -> str:
        """Return the prompt of one text."""
        return f"{self.prefix}{text}{self.suffix}"


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Tokens of several prompts, not padded."""

    input_ids: list[list[int]]
    """Token ids per row, at most `max_length`, at least one."""
    lengths: list[int]
    """Tokens per row before truncation."""
    truncated: list[bool]
    """Whether the text of each row was truncated."""

    @property
    def lost(self) -> list[int]:
        """Number of tokens that truncation removed from each row's text."""
        return [max(0, length - len(ids)) for length, ids in zip(self.lengths, self.input_ids, strict=True)]


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """Turns texts into tokens, the same way in training, evaluation and prediction.

    A prompt longer than `max_length` is truncated in the middle of its text:

        [CLS] prefix | t t t t t t t | suffix [SEP]
        [CLS] prefix | t t       t t | suffix [SEP]
    """

    tokenizer: PreTrainedTokenizerBase
    template: Template
    max_length: int
    normalization: Normalization = UNCHANGED
    frame: int = field(init=False)

    def __post_init__(self) -> None:
        rendered = self.template.render("")
        special = [token for token in self.tokenizer.all_special_tokens if token in rendered]
        if special:
            raise UserError(
                f"prompt.template holds {special[0]!r}, a control token of this model; write the prompt without it"
            )
        frame = len(self._tokenize([rendered])["input_ids"][0])
        object.__setattr__(self, "frame", frame)
        if frame >= self.max_length:
            raise UserError(
                f"prompt.max_length: {self.max_length} leaves no room for a text: the template alone takes "
                f"{frame} tokens; raise prompt.max_length or shorten prompt.template"
            )

    @classmethod
    def of(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        prompt: Prompt,
        labels: LabelSet,
        normalization: Normalization = UNCHANGED,
    ) -> "Encoder":
        """Return the encoder of a prompt for these labels."""
        return cls(
            tokenizer=tokenizer,
            template=Template.of(prompt, labels),
            max_length=prompt.max_length,
            normalization=normalization,
        )

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Normalize the texts and tokenize their prompts.

        Control tokens written in a text are split into ordinary tokens: a text can't end its own prompt.
        """
        texts = [self.normalization(text) for text in texts]
        input_ids: list[list[int]] = []
        for start in range(0, len(texts), TOKENIZER_BATCH):
            prompts = [self.template.render(text) for text in texts[start : start + TOKENIZER_BATCH]]
            input_ids += self._tokenize(prompts)["input_ids"]
        lengths = [len(ids) for ids in input_ids]
        truncated = [length > self.max_length for length in lengths]
        for row, text in enumerate(texts):
            if truncated[row]:
                input_ids[row] = self._cut(text)
            elif not input_ids[row]:
                input_ids[row] = [self.filler()]
        return Encoded(input_ids=input_ids, lengths=lengths, truncated=truncated)

    def _tokenize(self, prompts: list[str], **options: bool) -> dict[str, list[Any]]:
        return self.tokenizer(
            prompts,
            split_special_tokens=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
            **options,
        )

    def _cut(self, text: str) -> list[int]:
        """Remove the middle of the text's tokens; a token that spans template and text belongs to the template."""
        encoded = self._tokenize([self.template.render(text)], return_offsets_mapping=True)
        ids, offsets = encoded["input_ids"][0], encoded["offset_mapping"][0]
        begin, end = len(self.template.prefix), len(self.template.prefix) + len(text)
        inside = [i for i, (a, b) in enumerate(offsets) if a < b and begin <= a and b <= end]
        keep = len(inside) - (len(ids) - self.max_length)
        first = inside[(keep + 1) // 2]
        return ids[:first] + ids[first + len(inside) - keep :]

    def filler(self) -> int:
        """Return the token of a prompt that would have none, such as a blank text without a template."""
        usual = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id, self.tokenizer.pad_token_id)
        return next(token for token in usual if token is not None)


@dataclass(frozen=True, kw_only=True)
class EncodedRows:
    """Encoded rows with their labels."""

    ids: list[str]
    """Each row's id in the prepared data."""
    input_ids: list[list[int]]
    """Token ids per row, not padded."""
    labels: list[int]
    """Index of each row's label."""
    states: Sequence[torch.Tensor] | None = None
    """States after the frozen layers per row, `[length, size]`, if they are cached."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> dict[str, Any]:
        states = {} if self.states is None else {"states": self.states[row]}
        return {"input_ids": self.input_ids[row], "label": self.labels[row], "row": row, **states}

    def take(self, rows: list[int]) -> "EncodedRows":
        """Return the rows at these positions, without states."""
        return EncodedRows(
            ids=[self.ids[row] for row in rows],
            input_ids=[self.input_ids[row] for row in rows],
            labels=[self.labels[row] for row in rows],
        )


def encode(frame: "pd.DataFrame", encoder: Encoder, labels: LabelSet) -> EncodedRows:
    """Encode prepared rows.

    Raises:
        UserError: the rows were prepared with another prompt.
    """
    texts = frame["text"].tolist()
    if [encoder.template.render(text) for text in texts] != frame["prompt"].tolist():
        raise UserError("data/prepared was made with another prompt; run `dvc repro`")
    return EncodedRows(
        ids=frame["id"].tolist(),
        input_ids=encoder.encode(texts).input_ids,
        labels=labels.index(frame["label"].tolist()),
    )
