"""Importing pyroute2's modules without its `__init__.py`, and access to other names of the package."""

import subprocess
import sys

PROGRAM = """
import sys
import orlop_net_bridge._links, orlop_net_bridge._conntrack
assert "pyroute2.ndb" not in sys.modules and "pyroute2.iproute.linux" in sys.modules
import pyroute2
assert pyroute2.__name__ == "pyroute2" and not hasattr(pyroute2, "no_such_name")
from pyroute2 import NDB, IPRoute
from pyroute2.iproute.linux import IPRoute as ours
assert issubclass(IPRoute, ours) or IPRoute is ours, (IPRoute, ours)
assert "pyroute2.ndb" in sys.modules
"""


def test_needed_pyroute2_modules_are_imported_first_and_other_modules_on_demand():
    subprocess.run([sys.executable, "-W", "error", "-c", PROGRAM], check=True, timeout=60)


def test_pyroute2_that_is_already_imported_is_unchanged():
    program = "import pyroute2; before = pyroute2.NDB; import orlop_net_bridge._links; assert pyroute2.NDB is before"
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=60)
