"""Configuration: daemon.json and dockerd's flags become one frozen `Config`. Imports no trio and no driver.

config = load(sys.argv[1:], os.environ)
"""

from .errors import ConfigError
from .load import Loaded, load, load_all, without_password
from .model import AddressPool, AuditLog, Config, Listener, Proxies, RegistryRules, RuntimeEntry, Ulimit
from .policy import RELOADABLE
from .reload import ReloadPlan, plan, reload_attributes
from .validate import Problem

__all__ = [
    "RELOADABLE",
    "AddressPool",
    "AuditLog",
    "Config",
    "ConfigError",
    "Listener",
    "Loaded",
    "Problem",
    "Proxies",
    "RegistryRules",
    "ReloadPlan",
    "RuntimeEntry",
    "Ulimit",
    "load",
    "load_all",
    "plan",
    "reload_attributes",
    "without_password",
]
