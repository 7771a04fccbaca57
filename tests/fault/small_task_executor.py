"""The executor, but for two things: it cuts jobs of some megabytes into several tasks too, and what it says goes to a file.

Run as a script: python small_task_executor.py LOG_FILE ARGUMENTS_OF_THE_EXECUTOR
"""

from __future__ import annotations

import os
import sys

from convsvc.plan import tasks
from convsvc.service.executor import executor

if __name__ == "__main__":
    os.dup2(os.open(sys.argv.pop(1), os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    tasks.FEW_BYTES = 8 << 20
    sys.exit(executor.main())
