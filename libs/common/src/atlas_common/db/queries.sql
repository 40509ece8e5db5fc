-- name: beat_heart
-- Writes a heartbeat unless the newest is younger than the interval.
SELECT beat_heart(%(min_interval)s)

-- name: newest_beat
-- The newest heartbeat and the server's own clock, in one look.
SELECT beat_id, beaten_at, clock_timestamp() AS read_at
FROM replication_heartbeat
ORDER BY beat_id DESC
LIMIT 1

-- name: tenant_by_key
-- Who a key stands for, whether it is in service, and its own quotas.
SELECT tenant_id, key, status, quotas
FROM tenants
WHERE key = %(key)s

-- name: end_sessions
-- Ends sessions of one's own role.
SELECT pg_terminate_backend(p.pid)
FROM unnest(%(pids)s::integer[]) AS p (pid)

-- name: role_attributes
-- What the role may do everywhere, whatever it is granted.
SELECT rolname, rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolreplication
FROM pg_roles
WHERE rolname = current_user

-- name: excess_memberships
-- Roles the session's role belongs to that read or write past row-level security or the server.
SELECT r.rolname
FROM pg_roles AS r
WHERE r.rolname <> current_user
    AND pg_has_role(current_user, r.oid, 'MEMBER')
    AND (
        r.rolsuper OR r.rolbypassrls OR r.rolcreaterole OR r.rolcreatedb OR r.rolreplication
        OR r.rolname IN (
            'pg_read_all_data', 'pg_write_all_data', 'pg_read_server_files',
            'pg_write_server_files', 'pg_execute_server_program'
        )
    )
ORDER BY r.rolname

-- name: owned_relations
-- Tables and the like that the session's role owns, itself or through a role it belongs to.
SELECT format('%%I.%%I', n.nspname, c.relname) AS relation, pg_get_userbyid(c.relowner) AS owner
FROM pg_class AS c
INNER JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
    AND n.nspname NOT LIKE 'pg\_%%'
    AND n.nspname <> 'information_schema'
    AND pg_has_role(current_user, c.relowner, 'MEMBER')
ORDER BY 1
LIMIT 10

-- name: partition_grants
-- Grants on partitions themselves: a query that names a partition escapes the parent's policies.
SELECT DISTINCT
    format('%%I.%%I', n.nspname, c.relname) AS relation,
    coalesce(pg_get_userbyid(nullif(a.grantee, 0)), 'PUBLIC') AS grantee
FROM pg_class AS c
INNER JOIN pg_namespace AS n ON n.oid = c.relnamespace
CROSS JOIN LATERAL aclexplode(c.relacl) AS a
WHERE c.relispartition
    AND c.relkind IN ('r', 'p', 'f')
    AND a.grantee <> c.relowner
    AND (a.grantee = 0 OR pg_has_role(current_user, a.grantee, 'MEMBER'))
ORDER BY 1
LIMIT 10

-- name: enter_act
-- An entry of the audit log. Its number and its time are the database's.
INSERT INTO audit_log (
    tenant_id, act, event, actor, actor_kind, actor_tenant, method, request_id, request, outcome
)
VALUES (
    %(tenant_id)s, %(act)s, %(event)s, %(actor)s, %(actor_kind)s, %(actor_tenant)s, %(method)s,
    %(request_id)s, %(request)s, %(outcome)s
)
