"""Merge params.yaml and the files under conf/ into resolved.yaml."""

from labeltune import conf, terminal
from labeltune.outputs import write_text


def main() -> None:
    """Write resolved.yaml."""
    resolved = conf.resolve()
    write_text(conf.RESOLVED, conf.write_resolved(resolved))
    terminal.say(
        f"recipe {resolved.recipe}: data set {resolved.dataset.name}, model {resolved.model.name}, "
        f"{resolved.train.method}, {resolved.train.head}, seed {resolved.train.seed}"
    )


if __name__ == "__main__":
    terminal.run(main)
