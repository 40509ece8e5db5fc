#!/usr/bin/env bash
# A streaming replica, named $REPLICA: copied from the primary on an empty data directory, then followed.
set -euo pipefail
slot=${REPLICA//-/_} # Slot names know no dashes.

if [[ ! -s $PGDATA/PG_VERSION ]]; then
  # Complete before it has its name: killed in between, it would be taken for a database.
  making=$PGDATA.making
  rm -rf "$making" "$PGDATA"
  mkdir -p "$(dirname "$PGDATA")"
  PGPASSWORD=$(</run/secrets/replication_password) pg_basebackup --pgdata="$making" \
    --dbname="host=primary user=atlas_replication application_name=$REPLICA connect_timeout=5" \
    --slot="$slot" --wal-method=stream --checkpoint=fast --write-recovery-conf
  mv "$making" "$PGDATA"
fi
exec postgres -c config_file=/etc/atlas/postgresql.conf -c "cluster_name=$REPLICA" -c "primary_slot_name=$slot"
