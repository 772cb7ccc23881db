"""How every command ends: its exit status, and one sentence on stderr for an error that its user can mend."""

import sys
from collections.abc import Callable

OK, WRONG, STOPPED = 0, 2, 130  # exit statuses; 1 is left to commands whose work is done but has failures


def run_command(name: str, work: Callable[[], int | None], if_stopped: str = "") -> int:
    """Do the `work` of command `name` and return its exit status: the work's own, or 0 where it returns None.

    A ValueError or OSError becomes one sentence on stderr and status 2, Ctrl+C status 130; `if_stopped` completes the
    sentence for the latter. Other exceptions are bugs and keep their traceback.
    """
    try:
        return work() or OK
    except (ValueError, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return WRONG
    except KeyboardInterrupt:
        print(f"{name}: stopped{if_stopped and f'; {if_stopped}'}.", file=sys.stderr)
        return STOPPED
