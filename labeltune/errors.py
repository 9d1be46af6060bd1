"""The one exception for what a user can mend."""


class UserError(ValueError):
    """A mistake that the user can mend: it states what was found, what is allowed, and the key, file or line to edit.

    Stages and the command line print it as one message without a traceback and exit with status 1.
    """


def bullet(problems: list[str]) -> str:
    """Join several problems into the lines of one message, so that none waits behind another."""
    return problems[0] if len(problems) == 1 else "\n".join(f"- {problem}" for problem in problems)
