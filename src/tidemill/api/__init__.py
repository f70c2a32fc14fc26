"""The REST API: parses, calls one use case, renders."""
