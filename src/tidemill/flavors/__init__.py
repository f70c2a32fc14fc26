"""Flavors: one file per framework's model format, and what they share. Lives only in children."""
