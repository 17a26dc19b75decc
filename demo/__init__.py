"""`./dev demo`: the main job of a container engine, from an empty machine to a served page and back to nothing."""
