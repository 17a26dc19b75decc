"""Access control: roles and label scopes of listeners, the audit log, authorization plugins.

`service` installs the guards; `guard` applies all checks to one call. `roles` is the table of routes, `host_access` what a
request may not take from the host, `inherited_access` what it may not take from another container, `label_scope` the objects
that a listener may use, `audit` and `audit_file` the log, `authz` Docker's plugin protocol. Without any of them in the
configuration none of this is imported, and the router calls handlers directly.

The audit log survives a crash except for the lines of the last twentieth of a second (see `audit`). Everything else is
configuration.
"""
