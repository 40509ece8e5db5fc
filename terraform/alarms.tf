# Alarms and dashboards. A name up to its first dash is the runbook's: ops/runbooks/<name>.md.

locals {
  own = { for name in [
    # Of scripts/probe.py.
    "staging_points", "staging_age", "default_rows", "ingest_dead_letters", "slot_retained_bytes", "slots_lost",
  ] : name => { namespace = local.metrics_namespace, name = name, dimensions = {}, stat = "Maximum" } }

  # Of the services, through their collectors.
  served = { for name, metric in {
    warehouse_lag   = { service = "cdc-reconciler", name = "atlas.reconciler.lag" }
    verified_age    = { service = "cdc-reconciler", name = "atlas.reconciler.verified_age" }
    dead_letters    = { service = "cdc-reconciler", name = "atlas.reconciler.dead_letters" }
    discrepancies   = { service = "cdc-reconciler", name = "atlas.reconciler.discrepancies" }
    pending_points  = { service = "ingest", name = "atlas.ingest.pending_points" }
    inconsistencies = { service = "hotcache", name = "atlas.hotcache.inconsistencies" }
    untaken         = { service = "ingest", name = "atlas.maintenance.untaken" } # Of all services' policies.
    lateness        = { service = "ingest", name = "atlas.maintenance.lateness" }
    breakers_open   = { service = "query", name = "atlas.breaker.open" }
  } : name => { namespace = local.metrics_namespace, name = metric.name, dimensions = { "service.name" = metric.service }, stat = "Maximum" } }

  rds = { for metric in [
    "FreeStorageSpace", "CPUUtilization", "DatabaseConnections", "OldestReplicationSlotLag", "TransactionLogsDiskUsage",
    "MaximumUsedTransactionIDs",
  ] : metric => { namespace = "AWS/RDS", name = metric, dimensions = { DBInstanceIdentifier = module.postgres.id }, stat = "Maximum" } }

  slot_bytes_max = local.config.postgres.slot_wal_mb_max * 1024 * 1024
  served_calls   = ["ingest", "hotcache", "query", "cdc-reconciler"]

  alarms = merge(
    # ---- The platform's budgets
    {
      StagingBacklogHigh = {
        description = "More than a million points wait in staging: flushes do not keep up, or nobody flushes a lane."
        severity    = "page", threshold = 1000000, metrics = { m = local.own["staging_points"] }
      }
      FlushStalled = {
        description = "Staged points are older than 30 s: a flush waits for somebody, or no ingest is alive."
        severity    = "page", threshold = 30, metrics = { m = local.own["staging_age"] }
      }
      WarehouseLagHigh = {
        description = "The warehouse is more than 5 min behind, or does not know how far (-1)."
        severity    = "page", threshold = 300, metrics = { lag = local.served["warehouse_lag"] }, expression = "IF(lag < 0, 1000000, lag)"
      }
      VerifiedThroughOld = {
        description = "verified_through of some tenant is more than 15 min old, or not known (-1): windows disagree, or nobody compares."
        severity    = "ticket", threshold = 900, periods = 5, metrics = { age = local.served["verified_age"] }, expression = "IF(age < 0, 1000000, age)"
      }
      DeadLetters = {
        description = "Changes could not be applied to the warehouse."
        severity    = "ticket", threshold = 0, periods = 1, missing = "notBreaching", metrics = { m = local.served["dead_letters"] }
      }
      IngestDeadLetters = {
        description = "Messages of a topic or queue could not be stored in the last hour."
        severity    = "ticket", threshold = 0, periods = 1, period_s = 3600
        expression  = "DIFF(m)", metrics = { m = local.own["ingest_dead_letters"] }, missing = "notBreaching"
      }
      BooksUnbalanced = {
        description = "The warehouse's books do not balance."
        severity    = "page", threshold = 0, periods = 1, missing = "notBreaching", metrics = { m = local.served["discrepancies"] }
      }
      CacheInconsistent = {
        description = "A value from the cache was staler than its stated lag explains."
        severity    = "page", threshold = 0, periods = 1, missing = "notBreaching"
        metrics     = { m = merge(local.served["inconsistencies"], { stat = "Sum" }) }
      }
      BreakerOpen = {
        description = "query leaves a server or peer alone since it keeps failing."
        severity    = "ticket", threshold = 0, periods = 5, missing = "notBreaching", metrics = { m = local.served["breakers_open"] }
      }
      RetainedWalLarge = {
        description = "A slot holds more than half of the log that it may: is its reader alive?"
        severity    = "page", threshold = local.slot_bytes_max / 2, metrics = { m = local.own["slot_retained_bytes"] }
      }
      SlotAboutToBeLost = {
        description = "A slot lost its log, or is about to."
        severity    = "page", threshold = 0, periods = 1, missing = "notBreaching", metrics = { m = local.own["slots_lost"] }
      }
      PolicyWithoutRunner = {
        description = "A policy is due for more than ten minutes and nobody runs it."
        severity    = "ticket", threshold = 600, periods = 5, missing = "notBreaching", metrics = { m = local.served["untaken"] }
      }
      PolicyOverdue = {
        description = "A policy is due for more than three of its intervals."
        severity    = "ticket", threshold = 3, periods = 30, missing = "notBreaching", metrics = { m = local.served["lateness"] }
      }
      RowsWithoutPartition = {
        description = "Points found no partition and were not moved for 10 min."
        severity    = "ticket", threshold = 0, periods = 10, missing = "notBreaching", metrics = { m = local.own["default_rows"] }
      }
    },

    {
      for service in ["ingest", "hotcache", "cdc-reconciler"] : "PolicyFails-${service}" => {
        description = "Runs of a policy of ${service} fail."
        severity    = "ticket", threshold = 1, period_s = 900, periods = 1, missing = "notBreaching"
        metrics = { m = {
          namespace  = local.metrics_namespace, name = "atlas.maintenance.runs"
          dimensions = { "service.name" = service, status = "failed" }, stat = "Sum"
        } }
      }
    },

    # ---- Postgres
    {
      for name, id in module.postgres.replica_ids : "ReplicaLagHigh-${name}" => {
        description = "The replica ${name} is more than 3 s behind: EVENTUAL reads go elsewhere."
        severity    = "page", threshold = 3, periods = 5, datapoints = 3
        metrics     = { m = { namespace = "AWS/RDS", name = "ReplicaLag", dimensions = { DBInstanceIdentifier = id }, stat = "Maximum" } }
      }
    },
    {
      PostgresDiskFull = {
        description = "Less than 15 % of the disk is free."
        severity    = "page", comparison = "LessThanThreshold", threshold = floor(local.config.postgres.storage_gb * 1024 * 1024 * 1024 * 0.15)
        metrics     = { m = merge(local.rds["FreeStorageSpace"], { stat = "Minimum" }) }
      }
      PostgresBusy = {
        description = "The primary's CPU is above 85 % for 15 min."
        severity    = "ticket", threshold = 85, periods = 15, metrics = { m = merge(local.rds["CPUUtilization"], { stat = "Average" }) }
      }
      PostgresConnections = {
        description = "More than 85 % of max_connections are taken."
        severity    = "page", threshold = floor(local.config.postgres.max_connections * 0.85), metrics = { m = local.rds["DatabaseConnections"] }
      }
      PostgresLogDisk = {
        description = "The log takes more than slots and checkpoints account for."
        severity    = "ticket", threshold = local.slot_bytes_max + local.config.postgres.max_wal_mb * 1024 * 1024 * 2
        metrics     = { m = local.rds["TransactionLogsDiskUsage"] }
      }
      SlotLogFillingUp = {
        description = "The oldest slot is far behind, as RDS itself sees it."
        severity    = "ticket", threshold = floor(local.slot_bytes_max * 0.75), metrics = { m = local.rds["OldestReplicationSlotLag"] }
      }
      PostgresWraparound = {
        description = "Over a billion transaction ids are in use: vacuum does not get through."
        severity    = "ticket", threshold = 1000000000, metrics = { m = local.rds["MaximumUsedTransactionIDs"] }
      }
      ProxyPinned = {
        description = "Sessions are pinned to connections: a service sets something for a whole session behind the proxy."
        severity    = "ticket", threshold = 5, periods = 10, missing = "notBreaching"
        metrics = { m = {
          namespace = "AWS/RDS", name = "DatabaseConnectionsCurrentlySessionPinned", dimensions = { ProxyName = module.proxy.name }, stat = "Maximum"
        } }
      }
    },

    # ---- Cache, stream, warehouse, queues, backups
    {
      for node in module.cache.members : "CacheMemory-${node}" => {
        description = "The node ${node} is over 90 % full: entries are thrown out."
        severity    = "ticket", threshold = 90, periods = 10
        metrics = { m = {
          namespace = "AWS/ElastiCache", name = "DatabaseMemoryUsagePercentage", dimensions = { CacheClusterId = node }, stat = "Maximum"
        } }
      }
    },
    {
      KafkaOffline = {
        description = "Partitions have no leader: nothing is written to or read from them."
        severity    = "page", threshold = 0
        metrics = { m = {
          namespace = "AWS/Kafka", name = "OfflinePartitionsCount", dimensions = { "Cluster Name" = module.stream.cluster_name }, stat = "Maximum"
        } }
      }
      RedshiftBudget = {
        description = "Redshift used the day's RPU hours."
        severity    = "ticket", threshold = local.config.warehouse.rpu_hours_a_day, period_s = 3600, periods = 1, missing = "notBreaching"
        metrics = { m = {
          namespace = "AWS/Redshift-Serverless", name = "UsageLimitConsumed", dimensions = { Workgroup = module.warehouse.workgroup }, stat = "Maximum"
        } }
      }
      QueueDeadLetters = {
        description = "Messages of the queue of writes were given up."
        severity    = "ticket", threshold = 0, periods = 1, missing = "notBreaching"
        metrics = { m = {
          namespace  = "AWS/SQS", name = "ApproximateNumberOfMessagesVisible"
          dimensions = { QueueName = module.dead_letters.queues["writes"].dead_name }, stat = "Maximum"
        } }
      }
      BackupFailed = {
        description = "A backup did not come about."
        severity    = "ticket", threshold = 0, period_s = 3600, periods = 1, missing = "notBreaching"
        metrics     = { m = { namespace = "AWS/Backup", name = "NumberOfBackupJobsFailed", dimensions = {}, stat = "Sum" } }
      }
      JobNotStarted = {
        description = "A scheduled job could not be started."
        severity    = "ticket", threshold = 0, period_s = 3600, periods = 1, missing = "notBreaching"
        metrics     = { m = { namespace = "AWS/Scheduler", name = "TargetErrorCount", dimensions = {}, stat = "Sum" } }
      }
    },
    !local.config.has_debezium ? {} : {
      ConnectorDown = {
        description = "Debezium does not run: its slot keeps the log."
        severity    = "ticket", threshold = 1, comparison = "LessThanThreshold", periods = 5
        metrics = { m = {
          namespace = "AWS/KafkaConnect", name = "RunningTaskCount", dimensions = { ConnectorName = "${local.name}-debezium" }, stat = "Maximum"
        } }
      }
    },

    # ---- Services
    {
      for service in keys(local.running) : "ServiceDown-${service}" => {
        description = "Fewer tasks of ${service} run than should."
        severity    = contains(local.served_calls, service) ? "page" : "ticket"
        threshold   = local.sizes[service].min, comparison = "LessThanThreshold", periods = 5
        metrics = { m = {
          namespace  = "ECS/ContainerInsights", name = "RunningTaskCount"
          dimensions = { ClusterName = local.name, ServiceName = service }, stat = "Minimum"
        } }
      }
    },
  )

  # ---- Dashboards

  widgets = {
    ingest = {
      "Waiting in staging"    = [local.own["staging_points"], local.served["pending_points"]]
      "Age of what is staged" = [local.own["staging_age"]]
      "Dead letters"          = [local.own["ingest_dead_letters"], local.alarms["QueueDeadLetters"].metrics["m"]]
      "Points"                = [for name in ["points_accepted", "points_rejected"] : { namespace = local.metrics_namespace, name = "atlas.ingest.${name}", dimensions = { "service.name" = "ingest" }, stat = "Sum" }]
    }
    freshness = {
      "Lag of replicas"     = [for name, id in module.postgres.replica_ids : { namespace = "AWS/RDS", name = "ReplicaLag", dimensions = { DBInstanceIdentifier = id }, stat = "Maximum" }]
      "Lag of warehouse"    = [local.served["warehouse_lag"], local.served["verified_age"]]
      "Log that slots keep" = [local.own["slot_retained_bytes"], local.rds["OldestReplicationSlotLag"]]
      "Reads by source" = [
        for source in ["primary", "replica", "cache", "warehouse"] :
        { namespace = local.metrics_namespace, name = "atlas.query.reads", dimensions = { "service.name" = "query", source = source }, stat = "Sum" }
      ]
    }
    services = merge([
      for service in local.served_calls : {
        "Calls of ${service}" = [
          for code in ["OK", "INTERNAL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"] :
          { namespace = local.metrics_namespace, name = "atlas.rpc.server.duration", dimensions = { "service.name" = service, code = code }, stat = "SampleCount" }
        ]
        "Seconds of ${service}" = [
          for stat in ["p50", "p99"] :
          { namespace = local.metrics_namespace, name = "atlas.rpc.server.duration", dimensions = { "service.name" = service }, stat = stat }
        ]
      }
    ]...)
    stores = {
      "Postgres: CPU"         = [merge(local.rds["CPUUtilization"], { stat = "Average" })]
      "Postgres: connections" = [local.rds["DatabaseConnections"], local.alarms["ProxyPinned"].metrics["m"]]
      "Postgres: disk"        = [merge(local.rds["FreeStorageSpace"], { stat = "Minimum" }), local.rds["TransactionLogsDiskUsage"]]
      "Cache: memory"         = [for node in module.cache.members : local.alarms["CacheMemory-${node}"].metrics["m"]]
    }
  }

  dashboards = { for dashboard, widgets in local.widgets : dashboard => jsonencode({
    widgets = [for position, title in keys(widgets) : {
      type   = "metric"
      width  = 12
      height = 6
      x      = position % 2 * 12
      y      = floor(position / 2) * 6
      properties = {
        title  = title
        region = var.region
        view   = "timeSeries"
        period = 60
        metrics = [for metric in widgets[title] : concat(
          [metric.namespace, metric.name],
          flatten([for dimension, value in metric.dimensions : [dimension, value]]),
          [{ stat = metric.stat }],
        )]
      }
    }]
  }) }
}
