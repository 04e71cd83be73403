"""`python -m t5patches` is the `t5patches` command."""

import sys

from t5patches.cli import main

if __name__ == "__main__":
    sys.exit(main())
