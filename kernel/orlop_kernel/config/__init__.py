"""Configuration: daemon.json and dockerd's flags become one frozen `Config`. Imports no trio and no driver.

config = load(sys.argv[1:], os.environ)
"""

from .errors import ConfigError, Problem
from .load import Loaded, help_of, load, load_all, parse, without_password
from .model import DEFAULT_DATA_ROOT, DEFAULT_EXEC_ROOT, Config, Keys, Listener, instance_of
from .reload import ReloadPlan, plan

__all__ = [
    "DEFAULT_DATA_ROOT",
    "DEFAULT_EXEC_ROOT",
    "Config",
    "ConfigError",
    "Keys",
    "Listener",
    "Loaded",
    "Problem",
    "ReloadPlan",
    "help_of",
    "instance_of",
    "load",
    "load_all",
    "parse",
    "plan",
    "without_password",
]
