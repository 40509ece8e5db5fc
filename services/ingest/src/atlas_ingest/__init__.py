"""The ingest service: validates telemetry, stages it by COPY, flushes it; keeps the catalog."""
