"""`python -m calvin_eval` is `calvin-eval`."""

import sys

from calvin_eval.cli import main

sys.exit(main())
