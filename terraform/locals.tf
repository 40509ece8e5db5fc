locals {
  project = "atlas"
  name    = "${local.project}-${var.environment}"
  config  = local.env_config[var.environment]

  tags = {
    Project     = local.project
    Environment = var.environment
    Owner       = var.owner
    CostCenter  = var.cost_center
    ManagedBy   = "terraform"
  }

  # Sizes and protection: the same keys in each. What they cost, and why so: docs/costs.md.
  env_config = {
    dev = {
      cidr         = "10.40.0.0/16"
      is_protected = false
      log_days     = 14
      spot_share   = 9
      postgres = {
        instance_class        = "db.t4g.medium"
        replica_class         = "db.t4g.medium"
        replicas              = 1
        multi_az              = false
        storage_gb            = 50
        storage_gb_max        = 200
        iops                  = null # Volumes below 400 GiB have what they have.
        throughput            = null
        max_connections       = 200
        backup_days           = 7
        slot_wal_mb_max       = 8192
        max_wal_mb            = 2048
        insights_days         = 7
        monitoring_interval_s = 60
      }
      proxy_percent = 60
      cache         = { node_type = "cache.t4g.small", shards = 1, replicas = 0, snapshot_days = 1 }
      warehouse     = { base_rpu = 8, max_rpu = 16, rpu_hours_a_day = 16 }
      has_loader    = false
      stream        = { brokers = 3, broker_type = "kafka.t3.small", volume_gb = 50, telemetry_partitions = 3, connect_mcu = 1 }
      has_debezium  = false
      tasks = {
        ingest         = { cpu = 512, memory = 1024, min = 1, max = 2 }
        hotcache       = { cpu = 512, memory = 1024, min = 1, max = 2 }
        query          = { cpu = 512, memory = 1024, min = 1, max = 2 }
        cdc-reconciler = { cpu = 1024, memory = 4096, min = 1, max = 1 }
        cdc-redshift   = { cpu = 1024, memory = 2048, min = 1, max = 1 }
      }
      promotion = "dry_run"
      backup    = { days = 7, copy_days = null, is_locked = false, restore_tests = false }
      standby   = { has_backups = false, retention_days = 7, replica_class = null }
      objective = { ingest = 0.99, query = 0.99, hotcache = 0.99, cdc-reconciler = 0.95 }
    }

    staging = {
      cidr         = "10.41.0.0/16"
      is_protected = true
      log_days     = 30
      spot_share   = 5
      postgres = {
        instance_class        = "db.r7g.large"
        replica_class         = "db.r7g.large"
        replicas              = 1
        multi_az              = true
        storage_gb            = 200
        storage_gb_max        = 1000
        iops                  = null
        throughput            = null
        max_connections       = 500
        backup_days           = 14
        slot_wal_mb_max       = 32768
        max_wal_mb            = 8192
        insights_days         = 7
        monitoring_interval_s = 30
      }
      proxy_percent = 70
      cache         = { node_type = "cache.r7g.large", shards = 1, replicas = 1, snapshot_days = 1 }
      warehouse     = { base_rpu = 8, max_rpu = 32, rpu_hours_a_day = 48 }
      has_loader    = true
      stream        = { brokers = 3, broker_type = "kafka.m7g.large", volume_gb = 200, telemetry_partitions = 6, connect_mcu = 1 }
      has_debezium  = true
      tasks = {
        ingest         = { cpu = 1024, memory = 2048, min = 2, max = 4 }
        hotcache       = { cpu = 1024, memory = 2048, min = 2, max = 4 }
        query          = { cpu = 1024, memory = 2048, min = 2, max = 4 }
        cdc-reconciler = { cpu = 2048, memory = 8192, min = 1, max = 1 }
        cdc-redshift   = { cpu = 1024, memory = 4096, min = 1, max = 1 }
      }
      promotion = "on"
      backup    = { days = 14, copy_days = 14, is_locked = false, restore_tests = true }
      standby   = { has_backups = true, retention_days = 7, replica_class = null }
      objective = { ingest = 0.995, query = 0.995, hotcache = 0.995, cdc-reconciler = 0.99 }
    }

    prod = {
      cidr         = "10.42.0.0/16"
      is_protected = true
      log_days     = 365
      spot_share   = 0
      postgres = {
        instance_class        = "db.r7g.4xlarge"
        replica_class         = "db.r7g.4xlarge"
        replicas              = 2
        multi_az              = true
        storage_gb            = 2000
        storage_gb_max        = 8000
        iops                  = 24000
        throughput            = 1000
        max_connections       = 1500
        backup_days           = 35
        slot_wal_mb_max       = 262144
        max_wal_mb            = 65536
        insights_days         = 731
        monitoring_interval_s = 15
      }
      proxy_percent = 70
      cache         = { node_type = "cache.r7g.xlarge", shards = 3, replicas = 1, snapshot_days = 1 }
      warehouse     = { base_rpu = 32, max_rpu = 128, rpu_hours_a_day = 400 }
      has_loader    = true
      stream        = { brokers = 3, broker_type = "kafka.m7g.xlarge", volume_gb = 1000, telemetry_partitions = 24, connect_mcu = 2 }
      has_debezium  = true
      tasks = {
        ingest         = { cpu = 4096, memory = 8192, min = 3, max = 12 }
        hotcache       = { cpu = 2048, memory = 4096, min = 3, max = 9 }
        query          = { cpu = 2048, memory = 4096, min = 3, max = 18 }
        cdc-reconciler = { cpu = 8192, memory = 32768, min = 1, max = 1 }
        cdc-redshift   = { cpu = 4096, memory = 16384, min = 1, max = 1 }
      }
      promotion = "on"
      backup    = { days = 35, copy_days = 35, is_locked = true, restore_tests = true }
      standby   = { has_backups = true, retention_days = 14, replica_class = "db.r7g.2xlarge" }
      objective = { ingest = 0.999, query = 0.999, hotcache = 0.999, cdc-reconciler = 0.995 }
    }
  }

  # ---- Names that several parts must agree on

  database          = "atlas"
  postgres_major    = "18"
  ports             = { calls = 7000, health = 7001, peers = 7002 }
  grace_seconds     = 20
  trust_path        = "/run/atlas/trust.pem"
  pki_paths         = { certificate = "/run/atlas/tls.crt", key = "/run/atlas/tls.key", authority = "/run/atlas/ca.crt" }
  metrics_namespace = "Atlas/${var.environment}"
  telemetry_topic   = "telemetry"
  changes_topic     = "atlas-changes"
  load_prefix       = "cdc"

  # What the load balancer leads to.
  called = ["ingest", "query", "hotcache", "cdc-reconciler"]

  # One login role for each process; the same names as in db/src/atlas_db/access/roles.sql.
  roles = toset([
    "atlas_ingest", "atlas_hotcache", "atlas_query", "atlas_reconciler", "atlas_maintenance", "atlas_monitor", "atlas_indexer",
  ])

  # ---- Who may talk to whom: nothing else can

  security_groups = {
    lb             = "Load balancer of clients' calls."
    ingest         = "Service ingest."
    hotcache       = "Service hotcache."
    query          = "Service query."
    cdc-reconciler = "Service cdc-reconciler: the embedded warehouse."
    cdc-redshift   = "Service cdc-redshift: loads Redshift."
    indexer        = "Builds indexes of cold attributes."
    probe          = "Measures the database."
    migrations     = "Job: schema and roles."
    maintenance    = "Job: retention."
    rotation       = "Function that rotates passwords."
    connect        = "Debezium on MSK Connect."
    proxy          = "RDS Proxy."
    postgres       = "Primary and replicas."
    cache          = "Valkey."
    kafka          = "Brokers."
    redshift       = "Redshift workgroup."
    files          = "Mount targets of EFS."
  }

  reaches = {
    lb             = { for service in local.called : service => [local.ports.calls, local.ports.health] }
    ingest         = { proxy = 5432, postgres = 5432, hotcache = local.ports.peers, kafka = 9096 }
    hotcache       = { proxy = 5432, cache = 6379 }
    query          = { proxy = 5432, postgres = 5432, hotcache = local.ports.peers, cdc-reconciler = local.ports.peers }
    cdc-reconciler = { proxy = 5432, postgres = 5432, files = 2049 }
    cdc-redshift   = { proxy = 5432, postgres = 5432, redshift = 5439 }
    indexer        = { postgres = 5432 }
    probe          = { postgres = 5432 }
    migrations     = { postgres = 5432 }
    maintenance    = { postgres = 5432, files = 2049 }
    rotation       = { postgres = 5432 }
    connect        = { postgres = 5432, kafka = 9098 }
    proxy          = { postgres = 5432 }
  }

  flows = merge(flatten([
    for from, targets in local.reaches : [
      for to, ports in targets : { for port in flatten([ports]) : "${from}-${to}-${port}" => { from = from, to = to, port = port } }
    ]
  ])...)

  # Where tokens' keys are asked for, outside of the VPC.
  issuer_flows = merge([
    for service in local.serving : {
      for cidr in var.issuer.cidrs : "${service}-issuer-${cidr}" => { from = service, cidr = cidr, port = 443 }
    }
  ]...)
}
