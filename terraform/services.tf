# What runs: each with its own image, role, security group, and the variables its config.py reads.

locals {
  # Through the proxy go these; it needs their passwords.
  pooled_roles = toset(["atlas_ingest", "atlas_hotcache", "atlas_query", "atlas_reconciler"])

  # Without passwords: these come as PGPASSWORD. Each process has one role.
  dsn = {
    pooled = { for role in local.roles : role => "postgresql://${role}@${module.proxy.endpoint}:5432/${local.database}" }
    direct = { for role in local.roles : role => "postgresql://${role}@${module.postgres.address}:5432/${local.database}" }
  }

  libpq = {
    PGSSLMODE     = "verify-full"
    PGSSLROOTCERT = local.trust_path
  }

  every_process = merge(local.libpq, {
    ATLAS_ENVIRONMENT              = var.environment
    ATLAS_TELEMETRY__OTLP_ENDPOINT = "http://127.0.0.1:4317"
  })

  every_service = merge(local.every_process, {
    ATLAS_RPC__HOST                   = "0.0.0.0"
    ATLAS_RPC__PORT                   = tostring(local.ports.calls)
    ATLAS_RPC__HEALTH_PORT            = tostring(local.ports.health)
    ATLAS_RPC__TLS__CERTIFICATE_FILE  = local.pki_paths.certificate
    ATLAS_RPC__TLS__KEY_FILE          = local.pki_paths.key
    ATLAS_RPC__GRACE_SECONDS          = tostring(local.grace_seconds)
    ATLAS_IDENTITY__JWT__JWKS         = var.issuer.jwks
    ATLAS_IDENTITY__JWT__JWKS_CA_FILE = local.trust_path
    ATLAS_IDENTITY__JWT__ISSUER       = var.issuer.name
    ATLAS_IDENTITY__JWT__AUDIENCE     = var.issuer.audience
    ATLAS_TOKEN__ACTIVE_KEY           = tostring(var.token_active_key)
  })

  # Of what other services call: they come with certificates, to a port of their own.
  for_peers = { for service, peers in {
    hotcache       = { ingest = ["platform.internal"], query = ["telemetry.read", "platform.status"] }
    cdc-reconciler = { query = ["telemetry.read", "platform.status"] }
    } : service => {
    ATLAS_RPC__PEER_PORT           = tostring(local.ports.peers)
    ATLAS_RPC__TLS__CLIENT_CA_FILE = local.pki_paths.authority
    ATLAS_IDENTITY__PEERS          = jsonencode(peers)
  } }

  # Of what calls them.
  calling = { for peer, section in { hotcache = "HOTCACHE", cdc-reconciler = "RECONCILER" } : peer => { for name, value in {
    TARGET                = "${peer}:${local.ports.peers}"
    TLS__CA_FILE          = local.pki_paths.authority
    TLS__CERTIFICATE_FILE = local.pki_paths.certificate
    TLS__KEY_FILE         = local.pki_paths.key
  } : "ATLAS_${section}__${name}" => value } }

  password = { for role in local.roles : role => "${module.secrets.role_arns[role]}:password::" }

  pooled = { for role in local.pooled_roles : role => {
    ATLAS_PRIMARY__DSN           = local.dsn.pooled[role]
    ATLAS_PRIMARY__POOLER        = "true"
    ATLAS_PRIMARY__POOL_SIZE_MAX = "16"
  } }

  services = {
    ingest = {
      role  = "atlas_ingest"
      image = "ingest"
      environment = merge(local.every_service, local.pooled["atlas_ingest"], local.calling["hotcache"], {
        ATLAS_DIRECT__DSN              = local.dsn.direct["atlas_ingest"]
        ATLAS_KAFKA__BOOTSTRAP_SERVERS = module.stream.bootstrap_servers
        ATLAS_KAFKA__TOPIC             = local.telemetry_topic
        ATLAS_SQS__QUEUE_URL           = module.dead_letters.queues["writes"].url
        ATLAS_SQS__REGION              = var.region
      })
      secrets = {
        ATLAS_TOKEN__KEYS     = module.secrets.token_keys_arn
        ATLAS_KAFKA__SETTINGS = module.stream.settings_secret_arns["ingest"]
      }
      policies = { queue = data.aws_iam_policy_document.ingest.json }
    }

    hotcache = {
      role  = "atlas_hotcache"
      image = "hotcache"
      environment = merge(local.every_service, local.pooled["atlas_hotcache"], local.for_peers["hotcache"], {
        ATLAS_PROMOTION__MODE = local.config.promotion
      })
      secrets = {
        ATLAS_TOKEN__KEYS = module.secrets.token_keys_arn
        ATLAS_VALKEY__URL = module.cache.url_secret_arn
      }
    }

    query = {
      role  = "atlas_query"
      image = "query"
      environment = merge(local.every_service, local.pooled["atlas_query"], local.calling["hotcache"], local.calling["cdc-reconciler"], {
        ATLAS_REPLICAS = jsonencode([
          for name, host in module.postgres.replicas :
          { name = name, dsn = "postgresql://atlas_query@${host}:5432/${local.database}", pool_size_max = 16 }
        ])
      })
      secrets = { ATLAS_TOKEN__KEYS = module.secrets.token_keys_arn }
    }

    cdc-reconciler = {
      role  = "atlas_reconciler"
      image = "cdc-reconciler"
      environment = merge(local.every_service, local.pooled["atlas_reconciler"], local.for_peers["cdc-reconciler"], {
        ATLAS_DIRECT__DSN                 = local.dsn.direct["atlas_reconciler"]
        ATLAS_SLOT__NAME                  = "atlas_warehouse"
        ATLAS_WAREHOUSE__PATH             = "/data/warehouse.duckdb"
        ATLAS_WAREHOUSE__EXPORT_DIRECTORY = "/data/export"
        ATLAS_WAREHOUSE__MEMORY_LIMIT_MB  = tostring(floor(local.config.tasks["cdc-reconciler"].memory / 2))
        ATLAS_WAREHOUSE__THREADS          = tostring(max(1, floor(local.config.tasks["cdc-reconciler"].cpu / 1024)))
      })
      secrets   = { ATLAS_TOKEN__KEYS = module.secrets.token_keys_arn }
      directory = "warehouse"
      is_single = true # One process owns the file.
    }

    indexer = {
      role        = "atlas_indexer"
      image       = "hotcache"
      entry_point = ["python", "-m", "atlas_hotcache.indexing"]
      size        = { cpu = 256, memory = 512, min = 1, max = 1 }
      environment = merge(local.every_process, { ATLAS_INDEXING__BUILDER__DSN = local.dsn.direct["atlas_indexer"] })
      secrets     = {}
      is_single   = true
    }

    probe = {
      role        = "atlas_monitor"
      image       = "db"
      entry_point = ["python", "-c"]
      command     = [file("${path.module}/scripts/probe.py")]
      size        = { cpu = 256, memory = 512, min = 1, max = 1 }
      environment = merge(local.libpq, {
        PROBE_DSN       = local.dsn.direct["atlas_monitor"]
        PROBE_NAMESPACE = local.metrics_namespace
        PROBE_SECONDS   = "30"
      })
      secrets   = {}
      is_single = true
    }
  }

  loader = !local.config.has_loader ? {} : {
    cdc-redshift = {
      role  = "atlas_reconciler"
      image = "cdc-redshift"
      environment = merge(local.every_service, local.pooled["atlas_reconciler"], {
        ATLAS_DIRECT__DSN              = local.dsn.direct["atlas_reconciler"]
        ATLAS_SLOT__NAME               = "atlas_redshift"
        ATLAS_SINK__KIND               = "redshift"
        ATLAS_WAREHOUSE__PATH          = "/nowhere" # Asked for also where the warehouse is no file.
        ATLAS_SINK__REDSHIFT__HOST     = module.warehouse.host
        ATLAS_SINK__REDSHIFT__DATABASE = local.database
        ATLAS_SINK__REDSHIFT__USER     = "atlas_loader"
        ATLAS_SINK__REDSHIFT__IAM_ROLE = "default"
        ATLAS_SINK__REDSHIFT__BUCKET   = module.load_bucket.id
        ATLAS_SINK__REDSHIFT__PREFIX   = local.load_prefix
        ATLAS_SINK__REDSHIFT__REGION   = var.region
      })
      secrets = {
        ATLAS_TOKEN__KEYS              = module.secrets.token_keys_arn
        ATLAS_SINK__REDSHIFT__PASSWORD = "${module.warehouse.loader_secret_arn}:password::"
      }
      policies  = { bucket = data.aws_iam_policy_document.loader.json }
      is_single = true # One slot has one reader.
    }
  }

  running = merge(local.services, local.loader)
  serving = toset([for service, definition in local.running : service if contains(keys(definition.environment), "ATLAS_RPC__PORT")])
  sizes   = merge(local.config.tasks, { for service, definition in local.running : service => definition.size if contains(keys(definition), "size") })

  # What every task has.
  task = {
    prefix          = local.name
    region          = var.region
    secrets_key_arn = module.keys.arns["secrets"]
    logs_key_arn    = module.keys.arns["logs"]
    log_days        = local.config.log_days
    trust           = { secret_arn = module.secrets.trust_arn, path = local.trust_path }
    collector       = merge(module.observability.collector, { image = "${module.registry.urls["collector"]}:${var.image_tags.collector}" })
  }

  mounts = {
    for directory, point in module.files.access_points : directory => {
      file_system_id   = module.files.id
      file_system_arn  = module.files.arn
      access_point_id  = point.id
      access_point_arn = point.arn
    }
  }
}

# ---- What they may do in AWS; database and cache know them by password

data "aws_iam_policy_document" "ingest" {
  statement {
    sid       = "Queue"
    actions   = ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility", "sqs:GetQueueAttributes"]
    resources = [module.dead_letters.queues["writes"].arn]
  }

  statement {
    sid       = "ItsKey"
    actions   = ["kms:Decrypt"]
    resources = [module.keys.arns["data"]]

    condition {
      test     = "StringEquals"
      variable = "kms:ViaService"
      values   = ["sqs.${var.region}.amazonaws.com"]
    }
  }
}

data "aws_iam_policy_document" "loader" {
  statement {
    sid       = "Files"
    actions   = ["s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
    resources = ["${module.load_bucket.arn}/${local.load_prefix}/*"]
  }

  statement {
    sid       = "TheirNames"
    actions   = ["s3:ListBucket"]
    resources = [module.load_bucket.arn]

    condition {
      test     = "StringLike"
      variable = "s3:prefix"
      values   = ["${local.load_prefix}/*"]
    }
  }

  statement {
    sid       = "TheirKey"
    actions   = ["kms:GenerateDataKey", "kms:Decrypt"]
    resources = [module.keys.arns["data"]]

    condition {
      test     = "StringEquals"
      variable = "kms:ViaService"
      values   = ["s3.${var.region}.amazonaws.com"]
    }
  }
}

# ---- Services

module "service" {
  source   = "./modules/service"
  for_each = local.running

  cluster_name      = module.cluster.name
  cluster_arn       = module.cluster.arn
  namespace_arn     = module.cluster.namespace_arn
  subnet_ids        = module.network.private_subnet_ids
  security_group_id = module.network.security_group_ids[each.key]
  tasks_min         = local.sizes[each.key].min
  tasks_max         = local.sizes[each.key].max
  is_single         = lookup(each.value, "is_single", false)
  spot_share        = local.config.spot_share
  target_groups     = contains(local.called, each.key) ? [module.ingress.target_group_arns[each.key]] : []
  rollback_alarms   = contains(keys(local.config.objective), each.key) ? [module.observability.burn_alarm_names[each.key]] : []

  task = merge(local.task, {
    name            = each.key
    image           = "${module.registry.urls[each.value.image]}:${var.image_tags[each.value.image]}"
    repository_arns = [module.registry.arns[each.value.image], module.registry.arns["collector"]]
    cpu             = local.sizes[each.key].cpu
    memory          = local.sizes[each.key].memory
    entry_point     = lookup(each.value, "entry_point", null)
    command         = lookup(each.value, "command", [])
    pki_secret_arn  = lookup(module.secrets.pki_arns, each.key, null)
    ports = !contains(local.serving, each.key) ? null : {
      calls  = local.ports.calls
      health = local.ports.health
      peers  = contains(keys(local.for_peers), each.key) ? local.ports.peers : null
    }
    environment  = each.value.environment
    secrets      = merge(each.value.secrets, { PGPASSWORD = local.password[each.value.role] })
    policies     = lookup(each.value, "policies", {})
    mount        = contains(keys(each.value), "directory") ? merge(local.mounts[each.value.directory], { path = "/data" }) : null
    stop_seconds = local.grace_seconds + 10
  })
}

# ---- Jobs

module "migrations" {
  source = "./modules/job"

  account_id        = local.account_id
  partition         = local.partition
  cluster_arn       = module.cluster.arn
  subnet_ids        = module.network.private_subnet_ids
  security_group_id = module.network.security_group_ids["migrations"]
  schedule_key_arn  = module.keys.arns["data"]

  task = merge(local.task, {
    name            = "migrations"
    image           = "${module.registry.urls["db"]}:${var.image_tags.db}"
    repository_arns = [module.registry.arns["db"]]
    cpu             = 512
    memory          = 1024
    entry_point     = ["python", "-c"]
    command         = [file("${path.module}/scripts/migrate.py")]
    environment     = merge(local.libpq, { ATLAS_ADMIN_DSN = "postgresql://atlas_admin@${module.postgres.address}:5432/${local.database}" })
    secrets = merge(
      { PGPASSWORD = "${module.postgres.admin_secret_arn}:password::" },
      { for role in local.roles : "ROLE_PASSWORD_${role}" => local.password[role] },
    )
  })
}

module "maintenance" {
  source = "./modules/job"

  account_id        = local.account_id
  partition         = local.partition
  cluster_arn       = module.cluster.arn
  subnet_ids        = module.network.private_subnet_ids
  security_group_id = module.network.security_group_ids["maintenance"]
  schedule          = "rate(1 hour)"
  schedule_key_arn  = module.keys.arns["data"]

  task = merge(local.task, {
    name            = "maintenance"
    image           = "${module.registry.urls["ingest"]}:${var.image_tags.ingest}"
    repository_arns = [module.registry.arns["ingest"]]
    cpu             = 1024
    memory          = 2048
    entry_point     = ["python", "-m", "atlas_ingest.maintenance"]
    command         = ["run", "--json"]
    environment = merge(local.libpq, {
      ATLAS_ENVIRONMENT                    = var.environment
      ATLAS_MAINTENANCE__RETENTION__DSN    = local.dsn.direct["atlas_maintenance"]
      ATLAS_MAINTENANCE__ARCHIVE_DIRECTORY = "/archive"
    })
    secrets = { PGPASSWORD = local.password["atlas_maintenance"] }
    mount   = merge(local.mounts["archive"], { path = "/archive" })
  })
}
