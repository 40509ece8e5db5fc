data "aws_caller_identity" "this" {}

data "aws_partition" "this" {}

data "aws_acm_certificate" "this" {
  domain      = var.domain
  statuses    = ["ISSUED"]
  most_recent = true
}

locals {
  account_id = data.aws_caller_identity.this.account_id
  partition  = data.aws_partition.this.partition
  has_dr     = local.config.standby.has_backups || local.config.backup.copy_days != null
  has_dr_vpc = local.config.standby.replica_class != null
}

# ---- Keys and network

module "keys" {
  source = "./modules/keys"

  name       = local.name
  account_id = local.account_id
  partition  = local.partition
  keys = {
    data    = { description = "Stores, their snapshots, queues, images, disks of tasks.", cluster = local.name }
    secrets = { description = "Secrets." }
    logs    = { description = "Logs and alarms.", services = ["cloudwatch.amazonaws.com", "backup.amazonaws.com"], logs = "logs.${var.region}.amazonaws.com" }
    backup  = { description = "The vault of backups.", services = ["backup.amazonaws.com"] }
  }
}

module "dr_keys" {
  count  = local.has_dr ? 1 : 0
  source = "./modules/keys"

  providers = {
    aws = aws.dr
  }

  name       = "${local.name}-dr"
  account_id = local.account_id
  partition  = local.partition
  keys = {
    data    = { description = "Copies of backups, and the replica.", services = ["backup.amazonaws.com"] }
    secrets = { description = "Copies of secrets." }
    logs    = { description = "Logs of the second region.", logs = "logs.${var.dr_region}.amazonaws.com" }
  }
}

module "network" {
  source = "./modules/network"

  name            = local.name
  region          = var.region
  account_id      = local.account_id
  cidr            = local.config.cidr
  zones           = var.zones
  security_groups = local.security_groups
  flows           = local.flows
  client_flows    = { for cidr in var.client_cidrs : "lb-${cidr}" => { to = "lb", cidr = cidr, port = 443 } }
  outside_flows   = local.issuer_flows
  aws_clients = setsubtract(
    keys(local.security_groups), ["lb", "proxy", "postgres", "cache", "kafka", "files"]
  )
  interface_endpoints = [
    "ecr.api", "ecr.dkr", "kms", "logs", "monitoring", "secretsmanager", "sqs", "ssm", "sts", "xray",
  ]
  log_days     = local.config.log_days
  logs_key_arn = module.keys.arns["logs"]
}

module "dr_network" {
  count  = local.has_dr_vpc ? 1 : 0
  source = "./modules/network"

  providers = {
    aws = aws.dr
  }

  name                = "${local.name}-dr"
  region              = var.dr_region
  account_id          = local.account_id
  cidr                = local.config.cidr
  zones               = var.dr_zones
  security_groups     = { postgres = "The replica of the second region." }
  flows               = {}
  aws_clients         = []
  interface_endpoints = []
  log_days            = local.config.log_days
  logs_key_arn        = module.dr_keys[0].arns["logs"]
}

# ---- Buckets and images

module "log_bucket" {
  source = "./modules/bucket"

  name_prefix = "${local.name}-logs"
  expire_days = local.config.log_days

  policy_documents = [jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "LoadBalancer"
        Effect    = "Allow"
        Principal = { Service = "logdelivery.elasticloadbalancing.amazonaws.com" }
        Action    = "s3:PutObject"
        Resource  = "BUCKET/lb/AWSLogs/${local.account_id}/*"
      },
      {
        Sid       = "Buckets"
        Effect    = "Allow"
        Principal = { Service = "logging.s3.amazonaws.com" }
        Action    = "s3:PutObject"
        Resource  = "BUCKET/s3/*"
        Condition = { StringEquals = { "aws:SourceAccount" = local.account_id } }
      },
    ]
  })]
}

module "load_bucket" {
  source = "./modules/bucket"

  name_prefix = "${local.name}-load"
  kms_key_arn = module.keys.arns["data"]
  expire_days = 7
  access_log  = { bucket_id = module.log_bucket.id }
}

module "plugin_bucket" {
  source = "./modules/bucket"

  name_prefix = "${local.name}-plugins"
  kms_key_arn = module.keys.arns["data"]
  access_log  = { bucket_id = module.log_bucket.id }
}

module "registry" {
  source = "./modules/registry"

  name        = local.name
  images      = keys(var.image_tags)
  kms_key_arn = module.keys.arns["data"]
}

# ---- Stores

module "postgres" {
  source = "./modules/postgres"

  name                       = local.name
  database                   = local.database
  engine_version             = local.postgres_major
  zones                      = var.zones
  subnet_ids                 = module.network.isolated_subnet_ids
  security_group_id          = module.network.security_group_ids["postgres"]
  kms_key_arn                = module.keys.arns["data"]
  secrets_key_arn            = module.keys.arns["secrets"]
  logs_key_arn               = module.keys.arns["logs"]
  log_days                   = local.config.log_days
  protected                  = local.config.is_protected
  size                       = local.config.postgres
  synchronized_standby_slots = var.synchronized_standby_slots
}

module "standby" {
  count  = local.config.standby.has_backups ? 1 : 0
  source = "./modules/standby"

  providers = {
    aws = aws.dr
  }

  name           = local.name
  source_arn     = module.postgres.arn
  kms_key_arn    = module.dr_keys[0].arns["data"]
  retention_days = local.config.standby.retention_days
  replica = !local.has_dr_vpc ? null : {
    instance_class    = local.config.standby.replica_class
    subnet_ids        = module.dr_network[0].isolated_subnet_ids
    security_group_id = module.dr_network[0].security_group_ids["postgres"]
    family            = "postgres${local.postgres_major}"
    protected         = local.config.is_protected
    monitoring_arn    = module.postgres.monitoring_role_arn
  }
}

module "secrets" {
  source = "./modules/secrets"

  name            = local.name
  kms_key_arn     = module.keys.arns["secrets"]
  database        = { host = module.postgres.address, port = 5432, name = local.database }
  roles           = local.roles
  services        = local.serving
  replica_region  = local.has_dr_vpc ? var.dr_region : null
  replica_key_arn = local.has_dr_vpc ? module.dr_keys[0].arns["secrets"] : null
}

module "rotation" {
  source = "./modules/rotation"

  name                = local.name
  region              = var.region
  account_id          = local.account_id
  partition           = local.partition
  application_id      = var.rotation_application.id
  application_version = var.rotation_application.version
  secrets_key_arn     = module.keys.arns["secrets"]
  subnet_ids          = module.network.private_subnet_ids
  security_group_id   = module.network.security_group_ids["rotation"]
  cluster_name        = module.cluster.name
  logs_key_arn        = module.keys.arns["logs"]
  log_days            = local.config.log_days

  # Jobs read the password at each start.
  secrets = {
    for role in local.roles : role => {
      arn      = module.secrets.role_arns[role]
      services = [for service, definition in local.running : service if definition.role == role]
    }
  }
}

module "proxy" {
  source = "./modules/proxy"

  name                = local.name
  region              = var.region
  db_instance_id      = module.postgres.id
  secrets             = { for role in local.pooled_roles : role => module.secrets.role_arns[role] }
  secrets_key_arn     = module.keys.arns["secrets"]
  subnet_ids          = module.network.isolated_subnet_ids
  security_group_id   = module.network.security_group_ids["proxy"]
  connections_percent = local.config.proxy_percent
  log_days            = local.config.log_days
  logs_key_arn        = module.keys.arns["logs"]
}

module "cache" {
  source = "./modules/cache"

  name              = local.name
  engine_version    = "8.1"
  size              = local.config.cache
  subnet_ids        = module.network.isolated_subnet_ids
  security_group_id = module.network.security_group_ids["cache"]
  kms_key_arn       = module.keys.arns["data"]
  secrets_key_arn   = module.keys.arns["secrets"]
  logs_key_arn      = module.keys.arns["logs"]
  log_days          = local.config.log_days
  trust_path        = local.trust_path
}

module "files" {
  source = "./modules/files"

  name              = local.name
  kms_key_arn       = module.keys.arns["data"]
  subnet_ids        = module.network.private_subnet_ids
  security_group_id = module.network.security_group_ids["files"]
  directories       = ["warehouse", "archive"]
}

module "warehouse" {
  source = "./modules/warehouse"

  name              = local.name
  account_id        = local.account_id
  region            = var.region
  database          = local.database
  size              = local.config.warehouse
  subnet_ids        = module.network.isolated_subnet_ids
  security_group_id = module.network.security_group_ids["redshift"]
  kms_key_arn       = module.keys.arns["data"]
  secrets_key_arn   = module.keys.arns["secrets"]
  bucket_arn        = module.load_bucket.arn
  prefix            = local.load_prefix
}

module "stream" {
  source = "./modules/stream"

  name                      = local.name
  region                    = var.region
  account_id                = local.account_id
  kafka_version             = "3.8.x"
  size                      = local.config.stream
  subnet_ids                = module.network.isolated_subnet_ids
  connect_subnet_ids        = module.network.private_subnet_ids
  security_group_id         = module.network.security_group_ids["kafka"]
  connect_security_group_id = module.network.security_group_ids["connect"]
  kms_key_arn               = module.keys.arns["data"]
  secrets_key_arn           = module.keys.arns["secrets"]
  logs_key_arn              = module.keys.arns["logs"]
  log_days                  = local.config.log_days
  users                     = ["ingest"]
  trust_path                = local.trust_path
  telemetry_topic           = local.telemetry_topic
  changes_topic             = local.changes_topic

  plugin = {
    bucket_arn = module.plugin_bucket.arn
    key        = var.debezium_plugin.key
    version    = var.debezium_plugin.version
  }

  connector = !local.config.has_debezium ? null : {
    host        = module.postgres.address
    database    = local.database
    role        = "atlas_reconciler"
    secret_arn  = module.secrets.role_arns["atlas_reconciler"]
    publication = "atlas_warehouse"
    slot        = "debezium"
    tables = [
      "tenants", "entities", "attributes", "entity_values_ts", "flush_positions", "lane_epochs", "replication_heartbeat",
    ]
  }
}

module "dead_letters" {
  source = "./modules/dead_letters"

  name        = local.name
  account_id  = local.account_id
  kms_key_arn = module.keys.arns["data"]
  queues      = { writes = { visibility_seconds = 30, receives_max = 10 } }
}

module "backup" {
  source = "./modules/backup"

  name           = local.name
  account_id     = local.account_id
  partition      = local.partition
  kms_key_arn    = module.keys.arns["backup"]
  dr_region      = var.dr_region
  dr_kms_key_arn = local.has_dr ? module.dr_keys[0].arns["data"] : null
  days           = local.config.backup.days
  copy_days      = local.config.backup.copy_days
  is_locked      = local.config.backup.is_locked
  restore_tests  = local.config.backup.restore_tests
  database_arn   = module.postgres.arn
  topic_arn      = module.observability.topic_arns["ticket"]
}

# ---- Where services run

module "cluster" {
  source = "./modules/cluster"

  name         = local.name
  kms_key_arn  = module.keys.arns["data"]
  logs_key_arn = module.keys.arns["logs"]
  log_days     = local.config.log_days
}

module "ingress" {
  source = "./modules/ingress"

  name              = local.name
  vpc_id            = module.network.vpc_id
  subnet_ids        = module.network.private_subnet_ids
  security_group_id = module.network.security_group_ids["lb"]
  certificate_arn   = data.aws_acm_certificate.this.arn
  log_bucket_id     = module.log_bucket.id
  protected         = local.config.is_protected
  ports             = local.ports
  drain_seconds     = local.grace_seconds

  # Below /atlas.<package>: what callers use, and what operators do.
  routes = {
    ingest         = ["/atlas.ingest.v1.IngestService/*", "/atlas.catalog.v1.CatalogService/*"]
    query          = ["/atlas.query.v1.QueryService/*"]
    hotcache       = ["/atlas.hotcache.v1.ProjectionService/*"]
    cdc-reconciler = ["/atlas.reconciler.v1.ReconcilerService/*"]
  }
}

module "observability" {
  source = "./modules/observability"

  name            = local.name
  region          = var.region
  account_id      = local.account_id
  namespace       = local.metrics_namespace
  secrets_key_arn = module.keys.arns["secrets"]
  logs_key_arn    = module.keys.arns["logs"]
  log_days        = local.config.log_days
  subscribers     = var.alarm_subscribers
  alarms          = local.alarms
  objectives      = local.config.objective
  dashboards      = local.dashboards
}
