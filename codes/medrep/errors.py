"""The one error that is meant for the user."""


class UserError(SystemExit):
    """Something the user can mend: one sentence that says what is wrong, where, and what to do.

    As a SystemExit it ends a script with that sentence on stderr and exit status 1, without a traceback,
    wherever it is raised. A defect of ours is any other exception and keeps its traceback.
    """

    def __init__(self, sentence: str):
        super().__init__(sentence)
