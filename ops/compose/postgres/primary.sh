#!/usr/bin/env bash
# Run once, by the image's entrypoint, on an empty data directory: who replicates, and a slot for each replica.
set -euo pipefail

# Passwords are read by psql itself: arguments are public, and the shell's heredoc would be a copy.
psql --no-psqlrc --set=ON_ERROR_STOP=1 --username="$POSTGRES_USER" --dbname=postgres <<'SQL'
\set replication `cat /run/secrets/replication_password`
\set capture `cat /run/secrets/capture_password`
SET log_min_error_statement = 'panic';
CREATE ROLE atlas_replication LOGIN REPLICATION PASSWORD :'replication';
-- Debezium's: its snapshot reads all tenants (docs/adr/0023). Unused in the profile core.
CREATE ROLE atlas_capture LOGIN REPLICATION BYPASSRLS PASSWORD :'capture';
GRANT pg_read_all_data TO atlas_capture;
SELECT pg_create_physical_replication_slot(slot, true) FROM unnest(ARRAY['replica_1', 'replica_2']) slot;
SQL

echo 'host replication atlas_replication all scram-sha-256' >>"$PGDATA/pg_hba.conf"
