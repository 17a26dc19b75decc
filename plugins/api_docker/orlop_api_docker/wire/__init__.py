"""The JSON of the Engine API that the engine does not know: answers made of its values, and bodies that only routes read."""
