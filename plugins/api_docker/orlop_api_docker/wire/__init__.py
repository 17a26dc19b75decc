"""The JSON of the Engine API that is not defined in the engine: answers made of the engine's values, and bodies that only
routes read."""
