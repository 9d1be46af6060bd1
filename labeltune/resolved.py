"""Everything about a run: the sections of `resolved.yaml`, of which each stage reads its own."""

from labeltune.evaluation import Baselines, Calibrate, Evaluate, Plot, Report, Robustness, Worklist
from labeltune.origins import Dataset, Model
from labeltune.params import Prepare, Prompt, Train
from labeltune.sections import Section


class Resolved(Section):
    """Everything about a run, as `resolved.yaml` holds it."""

    recipe: str
    """The recipe's name."""
    dataset: Dataset
    """The rows."""
    model: Model
    """The base model."""
    prepare: Prepare
    """The prepare stage."""
    prompt: Prompt
    """The prompt."""
    train: Train
    """The train stage."""
    calibrate: Calibrate
    """The calibrate stage."""
    evaluate: Evaluate
    """The evaluate stage."""
    robustness: Robustness
    """The robustness stage."""
    baselines: Baselines
    """The baselines stage."""
    worklist: Worklist
    """The worklist stage."""
    plot: Plot
    """The plot stage."""
    report: Report
    """The report stage."""
