"""A frontend for tests, as an image: the Python that runs the tests, and `program.py`."""
