"""The executor's process: `python -m convsvc.service.executor`."""

import sys

from convsvc.service.executor.executor import main

if __name__ == "__main__":
    sys.exit(main())
