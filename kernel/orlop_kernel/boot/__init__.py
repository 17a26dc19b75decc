"""What a daemon does before and around serving: its log, its pid file, its sockets, its talk with systemd.

Small modules that `daemon` composes; none of them knows the engine.
"""
