"""The serving half of goodspeed: verifiers, drafters, and the pure parts they are built from."""
