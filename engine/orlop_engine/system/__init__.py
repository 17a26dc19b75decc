"""Information about the daemon and the host: identity, `info`, `version`, disk usage."""
