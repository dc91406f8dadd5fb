"""`python -m calvin_eval` is `calvin-eval`."""

import sys

from calvin_eval.cli.main import main

sys.exit(main())
