"""What a rank does in the tests of deaths: meets the others, then waits for them, works alone, or sums with
them."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from flowclip_core.errors import InputError
from flowclip_core.files import write_atomically
from flowclip_kit.distributed import process_pool, ranks
from flowclip_kit.distributed.rank import rank

if __name__ == "__main__":
    what, folder, us = sys.argv[1], Path(sys.argv[2]), rank(None, os.environ)
    ranks.MEET = float(os.environ.get("FLOWCLIP_TEST_MEET", ranks.MEET))
    process_pool.end_with_launcher()
    try:
        ranks.start(us, "cpu", folder)
        write_atomically(folder / str(us.number), str(os.getpid()))
        if what == "works" or (what == "waits" and us.number):
            time.sleep(600)
        while True:
            ranks.any_of(False)
    except InputError as error:
        print(f"reproduce.sh: {error}", file=sys.stderr)
        ranks.stop(failed=True)
        sys.exit(2)
