"""Merge params.yaml and the files under conf/ into resolved.yaml."""

from pathlib import Path

from labeltune.config import base, resolve
from labeltune.console import terminal
from labeltune.runtime import errors
from labeltune.runtime.files import write_text

SETTINGS = Path("settings")


def main() -> None:
    """Write resolved.yaml, and settings/STAGE.yaml with the part of it that each stage depends on."""
    resolved = resolve.resolve()
    write_text(base.RESOLVED, resolve.write_resolved(resolved))
    for stage, text in resolve.stage_settings(resolved).items():
        write_text(SETTINGS / f"{stage}.yaml", text)
    terminal.say(
        f"recipe {resolved.recipe}: data set {resolved.dataset.name}, model {resolved.model.name}, "
        f"{resolved.train.method}, {resolved.train.head}, seed {resolved.train.seed}"
    )


if __name__ == "__main__":
    errors.run(main)
