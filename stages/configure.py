"""Merge params.yaml and the files under conf/ into resolved.yaml."""

from labeltune.config import base, resolve
from labeltune.console import terminal
from labeltune.runtime import errors
from labeltune.runtime.files import write_text


def main() -> None:
    """Write resolved.yaml."""
    resolved = resolve.resolve()
    write_text(base.RESOLVED, resolve.write_resolved(resolved))
    terminal.say(
        f"recipe {resolved.recipe}: data set {resolved.dataset.name}, model {resolved.model.name}, "
        f"{resolved.train.method}, {resolved.train.head}, seed {resolved.train.seed}"
    )


if __name__ == "__main__":
    errors.run(main)
