"""Docker's networks. The rest of the engine uses `service.Networks`."""
