"""The builder process: `python -m orlop_build_dockerfile FD`, started by the daemon."""

from orlop_build_dockerfile.control.builder import open_builder
from orlop_build_dockerfile.daemon.process import main

if __name__ == "__main__":
    main(open_builder)
