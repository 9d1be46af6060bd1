"""Settings of every stage after training: calibration, evaluation, robustness, baselines, worklist, plots, report."""

from typing import Annotated, Literal

from pydantic import Field

from labeltune.config.base import Fraction, Positive, Section, Seed, Share

Count = Annotated[int, Field(ge=0, lt=2**31)]


class Calibrate(Section):
    """Fitting confidence on the validation rows."""

    temperature: Literal["fit", "none"] = "fit"
    """`fit`: divide the logits by the temperature of the lowest validation log-loss (Guo et al. 2017,
    arXiv:1706.04599), with a penalty that keeps it near 1 where rows are few, and after a training with class weights
    add a bias for each label, which takes the weights out of the confidence; `none` leaves them."""
    abstain: Literal["never", "coverage", "accuracy"] = "coverage"
    """Which target sets the confidence below which an answer is marked as abstained: the share of validation rows that
    are answered, or the accuracy among them."""
    abstain_target: Share = 0.95
    """The coverage or accuracy to reach on the validation rows."""
    set_coverage: Share = 0.95
    """Share of rows whose conformal prediction set is to hold the true label, at least."""


class Evaluate(Section):
    """Measuring the trained model on the test rows."""

    batch_tokens: Positive | Literal["auto"] = "auto"
    """Most tokens, padding included, of a batch at inference; `auto`: what suits the device."""
    seed: Seed = 0
    """Seed of the bootstrap."""
    resamples: Annotated[int, Field(ge=100, le=1_000_000)] = 2000
    """Resamples of the bootstrap."""


class Robustness(Section):
    """Predicting changed copies of the test rows."""

    seed: Seed = 0
    """Seed of the changes and of the sample."""
    sample: Positive = 16
    """Test rows for each perturbation beside the three that take every row, and for each further severity."""
    severities: list[Share] = Field(default_factory=lambda: [0.05, 0.1, 0.2], min_length=1)
    """Shares of a text's words or characters that are changed, ascending."""
    severity: Share = 0.1
    """The share that the perturbations over every row, and those of one severity, change."""
    worst: Count = 50
    """Most flipped answers that are listed."""


class Baselines(Section):
    """Cheaper models on the same rows."""

    seed: Seed = 0
    """Seed of the samples of training and validation rows."""
    probe_rows: Positive | Literal["all"] = 10_000
    """Most training rows of the regression on the base model's hidden states, and most validation rows that choose its
    strength; of more rows, a stratified sample, which table and verdict then state. `all` has no bound, at the cost of
    one pass of the base model over every row. Its layer is chosen on `train.probe_rows`."""
    zero_shot: bool = True
    """Score the test rows with the untuned base model."""


class Worklist(Section):
    """Rows worth a second look."""

    seed: Seed = 0
    """Seed of the folds."""
    folds: Annotated[int, Field(ge=2, le=1000)] = 5
    """Parts of the training rows, each judged by a model of the others."""
    confident: Fraction = 0.9
    """Confidence from which a wrong answer on a test row counts as a confident mistake."""


class Plot(Section):
    """Drawing the figures."""

    dpi: Annotated[int, Field(gt=0, le=1200)] = 150
    """Resolution of the pictures, in dots per inch."""


class Report(Section):
    """Writing the report."""

    language: Literal["en", "zh"] = "en"
    """English or Chinese."""
    mistakes: Count = 20
    """Most mistakes that are shown with their texts."""
