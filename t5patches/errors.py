"""The one exception that means "the user can put this right"."""


class UserError(Exception):
    """Wrong use or wrong input.

    The message names what was wrong (file, line, field) and what to do about it.
    The `t5patches` command prints it after `error: ` and exits with status 2, without
    a traceback; in a library it is an ordinary exception.
    """
