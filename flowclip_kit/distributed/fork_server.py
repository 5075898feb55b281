"""What the fork server imports once for all workers, ending within a second if its parent dies meanwhile.

By itself a fork server notices that death only after its imports, which may take half a minute on a busy
machine. A timer rather than a thread: the server forks, and a fork copies no other thread.
"""

import os
import signal

PARENT = "FLOWCLIP_FORK_SERVER_PARENT"  # a process number in the environment, set by process_pool.Pool


def _end_if_orphaned(*_: object) -> None:
    if os.getppid() != int(os.environ.get(PARENT, os.getppid())):
        os._exit(1)


signal.signal(signal.SIGALRM, _end_if_orphaned)
signal.setitimer(signal.ITIMER_REAL, 0.5, 0.5)
_end_if_orphaned()

import flowclip_core.data.video  # noqa: E402
import flowclip_core.training.loop  # noqa: E402, F401

signal.setitimer(signal.ITIMER_REAL, 0)
signal.signal(signal.SIGALRM, signal.SIG_DFL)
