"""``python -m hycam``, the command ``hycam``."""

import sys

from hycam.cli.main import main

sys.exit(main())
