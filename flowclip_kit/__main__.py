"""`python -m flowclip_kit`: the command line."""

import sys

from flowclip_kit.cli import main

if __name__ == "__main__":
    sys.exit(main())
