# Sourced by the scripts beside it: how they talk, refuse and wait.
# shellcheck shell=bash
set -Eeuo pipefail
trap 'printf "%s: this failed: %s\n" "$(basename "$0")" "$BASH_COMMAND" >&2' ERR

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
began=$SECONDS
dry_run=

say() { printf '%s  +%3d s  %s\n' "$(date -u +%H:%M:%SZ)" "$((SECONDS - began))" "$*"; }

# refuse MESSAGE: something is wrong that a person has to look at.
refuse() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

# misused MESSAGE: the command itself is wrong.
misused() { printf '%s: %s; --help has an example\n' "$(basename "$0")" "$*" >&2; exit 2; }

# Prints the comment at the head of the script.
usage() { sed -n '2,/^[^#]/ { s/^# \{0,1\}//p }' "$0"; }

# value_of "$@": the value of an option. In a subshell: `|| exit` where it is called.
value_of() { [ $# -ge 2 ] && [ -n "$2" ] || misused "$1 wants a value"; printf '%s' "$2"; }

needs() { # needs PROGRAM...
    local program
    for program; do command -v "$program" >/dev/null || refuse "$program is not in PATH"; done
}

# does WHAT COMMAND...: say it, and do it unless --dry-run.
does() {
    local what=$1; shift
    if [ -n "$dry_run" ]; then say "would: $what"; return; fi
    say "$what"
    "$@"
}

# eventually SECONDS WHAT COMMAND...: repeat the command until it succeeds.
eventually() {
    local until=$((SECONDS + $1)) what=$2; shift 2
    until "$@"; do
        [ "$SECONDS" -lt "$until" ] || refuse "not in time: $what"
        sleep 0.2
    done
}

# ask DSN SQL: one value or row, unaligned. The password comes from PGPASSWORD or ~/.pgpass.
ask() { PGCONNECT_TIMEOUT=${PGCONNECT_TIMEOUT:-5} psql --no-psqlrc --tuples-only --no-align --quiet -v ON_ERROR_STOP=1 -d "$1" -c "$2"; }
