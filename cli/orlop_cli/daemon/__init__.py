"""Access to the daemon: its address, the connection, TLS and certificates, API calls and their errors."""
