"""Settings of every stage after training: calibration, evaluation, robustness, baselines, worklist, plots, report."""

from typing import Annotated, Literal

from pydantic import Field

from labeltune.config.base import Fraction, Positive, Section, Seed, Share

Count = Annotated[int, Field(ge=0, lt=2**31)]


class Calibrate(Section):
    """Calibration on the validation rows."""

    temperature: Literal["fit", "none"] = "fit"
    """`fit`: divide the logits by the temperature of the lowest validation log-loss (Guo et al. 2017,
    arXiv:1706.04599), with a penalty that keeps it near 1 where rows are few, and after a training with class weights
    add a bias for each label, which takes the weights out of the confidence; `none` leaves them."""
    abstain: Literal["never", "coverage", "accuracy"] = "coverage"
    """Target by which the confidence threshold of abstention is chosen: the share of validation rows that are answered,
    or the accuracy among them."""
    abstain_target: Share = 0.95
    """Coverage or accuracy to reach on the validation rows."""
    set_coverage: Share = 0.95
    """Minimum share of rows whose conformal prediction set contains the true label."""


class Evaluate(Section):
    """Evaluation of the trained model on the test rows."""

    batch_tokens: Positive | Literal["auto"] = "auto"
    """Maximum number of tokens in an inference batch, padding included; `auto` depends on the device."""
    seed: Seed = 0
    """Seed for the bootstrap."""
    resamples: Annotated[int, Field(ge=100, le=1_000_000)] = 2000
    """Number of bootstrap resamples."""


class Robustness(Section):
    """Evaluation on perturbed copies of the test rows."""

    seed: Seed = 0
    """Seed for the perturbations and the sample."""
    sample: Positive = 16
    """Number of test rows for each further severity and for each perturbation other than the three that use every
    row."""
    severities: list[Share] = Field(default_factory=lambda: [0.05, 0.1, 0.2], min_length=1)
    """Severities in ascending order: shares of a text's words or characters that are changed."""
    severity: Share = 0.1
    """Severity of the perturbations that use every row, and of those that have only one."""
    worst: Count = 50
    """Maximum number of changed predictions to list."""


class Baselines(Section):
    """Baselines on the same rows."""

    seed: Seed = 0
    """Seed for the samples of training and validation rows."""
    probe_rows: Positive | Literal["all"] = 10_000
    """Maximum number of training rows for the regression on the base model's hidden states, and of validation rows for
    choosing its C. Larger splits are sampled with stratification, and the report states the number of rows. `all` runs
    the base model over every row. The layer is chosen on `train.probe_rows`."""
    zero_shot: bool = True
    """Whether to score the test rows with the base model before fine-tuning."""


class Worklist(Section):
    """The worklist of rows to review."""

    seed: Seed = 0
    """Seed for the cross-validation folds."""
    folds: Annotated[int, Field(ge=2, le=1000)] = 5
    """Number of cross-validation folds of the training rows; each fold is predicted by a model of the others."""
    confident: Fraction = 0.9
    """Minimum confidence at which a misclassified test row is listed."""


class Plot(Section):
    """Figures."""

    dpi: Annotated[int, Field(gt=0, le=1200)] = 150
    """Resolution of the figures in dots per inch."""


class Report(Section):
    """The report."""

    language: Literal["en", "zh"] = "en"
    """Language of the report: English or Chinese."""
    mistakes: Count = 20
    """Maximum number of misclassified rows to show with their texts."""
