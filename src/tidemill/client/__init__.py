"""The Python client of a Tidemill service: HTTP and wire types, nothing of the engine."""
