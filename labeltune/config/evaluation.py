"""Settings of every stage after training: calibration, evaluation, robustness, baselines, worklist, plots, report."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from labeltune.config.base import Fraction, Positive, Section, Seed, Share

Count = Annotated[int, Field(ge=0, lt=2**31)]
ROUNDING = 1e-3
"""Shares that people wrote add up to 1 within this."""


class Calibrate(Section):
    """Calibration on the validation rows."""

    temperature: Literal["fit", "none"] = "fit"
    """`fit`: divide the logits by the temperature of the lowest validation log-loss (Guo et al. 2017,
    arXiv:1706.04599), with a penalty that keeps it near 1 where rows are few, and after a training with class weights
    add a bias for each label, which takes the weights out of the confidence; `none` leaves them."""
    prevalence: Literal["source", "balanced"] | dict[str, Share] = "source"
    """How frequent the labels are where the classifier is used: `source`: as in the rows before `prepare.balance`;
    `balanced`: all alike; or label -> share. Probabilities, and with them the answers, are re-weighted from the shares
    of the training rows to these (Saerens et al. 2002). Figures on test rows are for the test rows' own shares; those
    for these shares stand beside them. Without balancing `source` changes nothing."""
    abstain: Literal["never", "coverage", "accuracy"] = "coverage"
    """Which target sets the confidence below which an answer is marked as abstained: the share of texts that are
    answered, or the accuracy among them."""
    abstain_target: Share = 0.95
    """The coverage or accuracy to reach, at least."""
    set_coverage: Share = 0.95
    """Share of texts whose conformal prediction set is to hold the true label, at least."""
    certainty: Share = 0.9
    """How probable it is to be, over draws of the validation rows, that each of these targets is met on texts like
    them. The fewer validation rows, the further beyond the target the threshold lies."""

    @model_validator(mode="after")
    def _shares_of_everything(self) -> "Calibrate":
        if isinstance(self.prevalence, dict) and abs(sum(self.prevalence.values()) - 1) > ROUNDING:
            raise ValueError(f"the shares in 'prevalence' must add up to 1, not {sum(self.prevalence.values()):g}")
        return self


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
    """Seed of the changes and of the sample."""
    sample: Positive = 200
    """Test rows for each perturbation beside the three that take every row; a quarter of them for each point of the
    severity curves. All test rows where there are fewer."""
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
