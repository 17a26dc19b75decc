"""`orlopd` with the builder process of the tests (`builder.py`), which carries out calls that a client sends in JSON."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from orlop_build_dockerfile.daemon import supervisor
from orlop_kernel.__main__ import main

supervisor.PROGRAM = (sys.executable, "-I", str(Path(__file__).with_name("builder.py")))
supervisor.IDLE = float(os.environ.get("ORLOP_TEST_IDLE", "60"))

if __name__ == "__main__":
    main()
