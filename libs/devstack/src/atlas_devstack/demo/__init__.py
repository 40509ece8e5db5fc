"""`atlas demo`: this host's own telemetry through the whole platform, and the proof it is right."""
