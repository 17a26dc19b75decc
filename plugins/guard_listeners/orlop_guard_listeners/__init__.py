"""Access control: roles and label scopes of listeners, the audit log, authorization plugins.

`service` installs the guards; `guard` applies all checks to one call. `roles` contains the table of routes. `host_access`
finds access to the host in a request, and `inherited_access` finds access to the host through another container.
`label_scope` limits the objects that a listener may use. `audit` and `audit_file` write the audit log. `authz` implements
Docker's protocol of authorization plugins. If the configuration uses none of these features, these modules are not imported,
and the router calls handlers directly.

After a crash, the audit log is complete except for the lines of the last twentieth of a second (see `audit`). The package
keeps no other state.
"""
