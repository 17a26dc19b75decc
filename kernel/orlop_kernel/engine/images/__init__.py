"""The images room: references, registry, content store, pull, load, import, and what `Images` says about them all."""
