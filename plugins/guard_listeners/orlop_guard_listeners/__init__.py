"""Who may do what: roles and label scopes of listeners, the audit log, authorization plugins.

`service` puts them around the API; `guard` is the way of one call through all of them. `roles` is the table of routes,
`walls` what may not be asked of the host, `scope` the objects that a listener is for, `audit` and `audit_file` who did what,
`authz` Docker's plugin protocol. Without any of them in the configuration none of this is imported, and nothing stands
between the router and a handler.

Survives a crash: the audit log, but for the lines of its last twentieth of a second (see `audit`). All else is
configuration.
"""
