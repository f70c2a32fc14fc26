"""The schema, step by step: the n-th module brings a database to version n. Published steps never change."""

VERSIONS = ("m0001_initial", "m0002_service", "m0003_webhooks", "m0004_sessions", "m0005_schedules", "m0006_series")
