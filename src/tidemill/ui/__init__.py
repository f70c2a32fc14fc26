"""Server-rendered pages: what a person sees of the service."""

from tidemill.ui.site import mount

__all__ = ["mount"]
