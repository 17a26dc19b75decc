"""The JSON of the Engine API that the engine does not know: answers, and bodies that only routes read."""
