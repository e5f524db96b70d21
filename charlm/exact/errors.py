"""The one error of `charlm.exact`."""


class NotExact(RuntimeError):  # noqa: N818 named for what it says
    """An operation has no exact form; the message names it."""

    def __init__(self, what: str, instead: str = "docs/exact.md lists what has.") -> None:
        super().__init__(f"{what} has no exact form. {instead}")
