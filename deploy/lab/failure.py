"""The one error of the lab: it says what did not work, why, and what to do. It is raised by every module here."""


class LabError(RuntimeError):
    """Something of the lab did not work. The text names the thing, the cause and, where there is one, the remedy."""


class LabUnavailable(LabError):
    """This machine cannot run that part of the lab (no root, not Linux, no Go and no way to get it)."""
