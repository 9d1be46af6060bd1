"""Prediction with a trained classifier, which is loaded from its folder."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, overload

import numpy as np
from numpy.typing import NDArray

from labeltune.data.normalization import is_blank
from labeltune.inference import artifact
from labeltune.inference.artifact import Record, load_record
from labeltune.inference.calibration import Calibration
from labeltune.modeling.ngrams import Blend, Ngrams
from labeltune.runtime.errors import UserError

BLANK = "is blank"


def unanswerable(text: object) -> str | None:
    """Return why a text can't be labelled, or None if it can.

    >>> unanswerable(" "), unanswerable("free entry")
    ('is blank', None)
    """
    if not isinstance(text, str):
        return "is no string"
    if is_blank(text):
        return BLANK
    try:
        text.encode()
    except UnicodeEncodeError:
        return "is not valid Unicode"
    return None


# PyTorch and Transformers take seconds, which a classifier of n-grams need not wait for: functions import them.
if TYPE_CHECKING:
    import pandas as pd

    from labeltune.modeling.forward import PromptPrefix
    from labeltune.modeling.network import Network
    from labeltune.modeling.prompts import Encoder

STREAMED = 1024
"""Number of texts of a stream that are predicted together."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The prediction for one text."""

    label: str
    """The most probable label; after a training with class weights, the label of least expected cost."""
    confidence: float
    """Calibrated probability of the label."""
    probabilities: dict[str, float]
    """Label -> calibrated probability, in the order of the label set; they add up to 1."""
    abstained: bool
    """Whether the confidence is below the abstention threshold."""
    truncated: bool
    """Whether the text was truncated."""


@dataclass(frozen=True, kw_only=True)
class Predictions(Sequence[Answer]):
    """Predictions for several texts in their order: a sequence of `Answer`, and arrays over all texts."""

    names: tuple[str, ...]
    """The labels, in the order of the columns."""
    logits: NDArray[np.float32]
    """Logits before calibration, `[rows, num_labels]`."""
    truncated: list[bool]
    """Whether the text was truncated."""
    calibration: Calibration
    """Calibration from which the confidence is computed."""

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """Calibrated probabilities, `[rows, num_labels]`; each row sums to 1."""
        return self.calibration.probabilities(self.logits)

    @property
    def guesses(self) -> NDArray[np.int64]:
        """Index of the predicted label, `[rows]`."""
        return self.calibration.answers(self.probabilities)

    @property
    def confidence(self) -> NDArray[np.float64]:
        """Probability of the predicted label, `[rows]`."""
        return self.calibration.confidence(self.probabilities)

    @property
    def abstained(self) -> list[bool]:
        """Whether each confidence is below the abstention threshold, `[rows]`."""
        return (self.confidence < self.calibration.threshold).tolist()

    def __len__(self) -> int:
        return len(self.truncated)

    @overload
    def __getitem__(self, row: int) -> Answer: ...

    @overload
    def __getitem__(self, row: slice) -> "Predictions": ...

    def __getitem__(self, row: int | slice) -> "Answer | Predictions":
        if isinstance(row, slice):
            return replace(self, logits=self.logits[row], truncated=self.truncated[row])
        return next(iter(replace(self, logits=self.logits[row][None], truncated=[self.truncated[row]])))

    def __iter__(self) -> Iterator[Answer]:
        confidence, given = self.confidence.tolist(), self.probabilities.tolist()
        rows = zip(self.guesses.tolist(), confidence, given, self.truncated, strict=True)
        for guess, sure, shares, truncated in rows:
            yield Answer(
                label=self.names[guess],
                confidence=sure,
                probabilities=dict(zip(self.names, shares, strict=True)),
                abstained=sure < self.calibration.threshold,
                truncated=truncated,
            )

    def table(self, rows: "pd.DataFrame") -> "pd.DataFrame":
        """Return a table of id, text, label, prediction, confidence, abstained, truncated, p_NAME and logit_NAME."""
        given, names = self.probabilities, self.names
        columns = {f"p_{name}": given[:, i] for i, name in enumerate(names)}
        columns |= {f"logit_{name}": self.logits[:, i].astype(np.float64) for i, name in enumerate(names)}
        return rows[["id", "text", "label"]].assign(
            prediction=[names[guess] for guess in self.guesses],
            confidence=self.confidence,
            abstained=self.abstained,
            truncated=self.truncated,
            **columns,
        )


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """A trained classifier in memory."""

    record: Record
    network: "Network | None" = None
    """The network; None where n-grams answer alone."""
    encoder: "Encoder | None" = None
    """What makes tokens of a text for the network."""
    prefix: "PromptPrefix | None" = None
    """Common prefix of all prompts with its keys and values; None without one."""
    folders: tuple[Path, ...]
    """Folders of its files: the artefact, and the base model if the artefact does not contain it."""
    blend: Blend | None = None
    """The n-gram model whose logits are added; None without one."""
    ngrams: Ngrams | None = None
    """The n-gram model that answers alone; None where there is a network."""
    turn: Lock = field(default_factory=Lock, repr=False)
    """Lock for forward passes: threads that share a classifier run one after another, since a pass may use every
    core."""

    @classmethod
    def load(cls, folder: str | Path, *, merge: bool | None = None) -> "Classifier":
        """Load an artefact.

        Args:
            merge: True merges the adapter into the weights, which keep their saved type, and leaves an ordinary
                Transformers model. None merges it unless the weights have 4 bits, and converts them to the type of the
                arithmetic.

        Raises:
            UserError: a file is missing or was changed, or the base model is not the one it was trained on.
        """
        folder = Path(folder)
        record = load_record(folder)
        if record.train.method == "ngrams":
            return cls(record=record, folders=(folder,), ngrams=Ngrams.load(folder))
        return cls._load_network(record, folder, merge)

    @classmethod
    def _load_network(cls, record: Record, folder: Path, merge: bool | None) -> "Classifier":
        from labeltune.modeling.adapters import dequantize_from
        from labeltune.modeling.base_models import Base, load_tokenizer
        from labeltune.modeling.builder import NetworkSpec
        from labeltune.modeling.classifiers import shared_prefix
        from labeltune.modeling.device import able, device
        from labeltune.modeling.forward import round_weights
        from labeltune.modeling.prompts import Encoder

        assert record.machine is not None, "a network was trained on a machine"
        full = record.train.method == "full"
        merge = record.train.method == "lora" if merge is None else merge
        base = Base(name=str(folder), folder=folder, files={}) if full else artifact.open_same_base(record, folder)
        encoder = Encoder.of(load_tokenizer(folder), record.prompt, record.labels, record.normalization)
        spec = NetworkSpec(
            base=base,
            labels=record.labels,
            train=record.train,
            encoder=encoder,
            machine=able(record.machine),
        )
        network = spec.load(fresh=not full, prior=record.prior)
        if merge and record.train.method == "qlora":
            quantised, settings = network, record.train.model_copy(update={"method": "lora"})
            network = replace(spec, train=settings).load(prior=record.prior)
            dequantize_from(network, quantised)
        if full:
            artifact.load_all(network, folder)
        elif record.train.method == "probe":
            artifact.load_head(network, folder)
        else:
            network = artifact.load_adapter(network, folder)
            if merge:
                network = network.merge_and_unload(safe_merge=True)
        network = network.to(device()).eval()
        if not merge:
            round_weights(network)
        folders = (folder,) if full else (folder, base.folder)
        prefix = shared_prefix(network, encoder)
        blend = None if record.blend is None else Blend(weights=record.blend, model=Ngrams.load(folder))
        return cls(record=record, network=network, encoder=encoder, prefix=prefix, folders=folders, blend=blend)

    def on_rows(self) -> "Classifier":
        """Return the classifier calibrated for the label shares of the validation and test rows."""
        return replace(self, record=replace(self.record, calibration=self.record.calibration.measured))

    def predict(
        self,
        texts: Iterable[str],
        *,
        allow_blank: bool = False,
        batch_tokens: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Predictions:
        """Predict the label of every text, in their order; threads may share a classifier.

        >>> classifier = Classifier.load("models/classifier")  # doctest: +SKIP
        >>> classifier.predict(["free entry, text WIN"])[0].label  # doctest: +SKIP
        'spam'

        Args:
            texts: held in memory; `stream` is for more than fit there.
            allow_blank: answer also a blank text, by the prompt alone.
            batch_tokens: most tokens of a batch, padding included; None takes what suits the device.
            progress: called with the number of texts done since the last call.

        Raises:
            UserError: there is no text; one is no string, blank, or not valid Unicode.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        if not texts:
            raise UserError("there is no text to label")
        for place, text in enumerate(texts):
            fault = unanswerable(text)
            if fault and not (allow_blank and fault == BLANK):
                raise UserError(f"texts[{place}] {fault}: {text!r:.60}")
        logits, truncated = self._logits(texts, batch_tokens, progress)
        return Predictions(
            names=self.record.labels.names, logits=logits, truncated=truncated, calibration=self.record.calibration
        )

    def _logits(
        self, texts: list[str], batch_tokens: int | None, progress: Callable[[int], None] | None
    ) -> tuple[NDArray[np.float32], list[bool]]:
        """Logits of each text, `[rows, num_labels]`, and whether the model saw less than the whole of it."""
        normalized = [self.record.normalization(text) for text in texts]
        if self.ngrams is not None:
            logits = self.ngrams.logits(normalized)
            if progress:
                progress(len(texts))
            return logits, [False] * len(texts)
        from labeltune.modeling.forward import compute_logits
        from labeltune.modeling.kernels import fused

        assert self.network is not None, "a classifier is n-grams or a network"
        assert self.encoder is not None, "a network reads tokens"
        encoded = self.encoder.encode(texts)
        with self.turn:
            logits = compute_logits(
                self.network,
                encoded.input_ids,
                pad_id=self.encoder.tokenizer.pad_token_id,
                batch_tokens=batch_tokens or fused.batch_tokens(self.network),
                prefix=self.prefix,
                progress=progress,
            )
        return logits if self.blend is None else self.blend(logits, normalized), encoded.truncated

    def stream(
        self, texts: Iterable[str], *, together: int = STREAMED, batch_tokens: int | None = None
    ) -> Iterator[Answer]:
        """Predict an unbounded stream of texts in their order; only one batch of them is in memory.

        >>> classifier = Classifier.load("models/classifier")  # doctest: +SKIP
        >>> with open("texts.txt") as lines:  # doctest: +SKIP
        ...     for answer in classifier.stream(line for line in lines if line.strip()):
        ...         print(answer.label, answer.confidence)

        Args:
            texts: taken as they are needed.
            together: how many to wait for before they are answered; few answer sooner, many are faster a text.
            batch_tokens: as in `predict`.

        Raises:
            UserError: a text is no string, blank, or not valid Unicode.
        """
        waiting = iter([texts] if isinstance(texts, str) else texts)
        while chunk := list(islice(waiting, together)):
            yield from self.predict(chunk, batch_tokens=batch_tokens)
