"""The daemon as the client reaches it: where it is, the connection, TLS and its certificates, calls and their errors."""
