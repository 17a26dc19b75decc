"""Networks: what Docker means by them. `service.Networks` is what the rest of the engine uses."""
