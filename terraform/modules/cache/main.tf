locals {
  is_cluster = var.size.shards > 1
  nodes      = var.size.shards * (1 + var.size.replicas)
}

resource "aws_elasticache_subnet_group" "this" {
  name        = var.name
  description = "Isolated subnets of ${var.name}."
  subnet_ids  = var.subnet_ids
}

resource "aws_elasticache_parameter_group" "this" {
  name        = "${var.name}-${local.is_cluster ? "cluster" : "single"}"
  description = "A cache: what is used least goes first."
  family      = "valkey${split(".", var.engine_version)[0]}"

  dynamic "parameter" {
    for_each = merge(
      {
        "maxmemory-policy" = "allkeys-lru"
        "cluster-enabled"  = local.is_cluster ? "yes" : "no"
      },
      # One lost shard is one lost shard, not the end of all.
      local.is_cluster ? { "cluster-require-full-coverage" = "no" } : {},
    )

    content {
      name  = parameter.key
      value = parameter.value
    }
  }
}

# ---- AUTH: drawn, stored, read back, so that secret and server never part.

ephemeral "random_password" "token" {
  length  = 64
  special = false
}

resource "aws_secretsmanager_secret" "token" {
  name_prefix             = "${var.name}/cache/token-"
  description             = "AUTH token of the cache."
  kms_key_id              = var.secrets_key_arn
  recovery_window_in_days = 30
}

resource "aws_secretsmanager_secret_version" "token" {
  secret_id                = aws_secretsmanager_secret.token.id
  secret_string_wo         = jsonencode({ token = ephemeral.random_password.token.result })
  secret_string_wo_version = var.token_version
}

ephemeral "aws_secretsmanager_secret_version" "token" {
  secret_id = aws_secretsmanager_secret_version.token.secret_id
}

# ---- The servers

resource "aws_cloudwatch_log_group" "this" {
  for_each = toset(["engine-log", "slow-log"])

  name              = "/atlas/${var.name}/cache/${each.key}"
  retention_in_days = var.log_days
  kms_key_id        = var.logs_key_arn
}

resource "aws_elasticache_replication_group" "this" {
  replication_group_id       = var.name
  description                = "The cache over the projection; it can be lost at any time."
  engine                     = "valkey"
  engine_version             = var.engine_version
  node_type                  = var.size.node_type
  port                       = 6379
  parameter_group_name       = aws_elasticache_parameter_group.this.name
  subnet_group_name          = aws_elasticache_subnet_group.this.name
  security_group_ids         = [var.security_group_id]
  num_node_groups            = var.size.shards
  replicas_per_node_group    = var.size.replicas
  cluster_mode               = local.is_cluster ? "enabled" : "disabled"
  automatic_failover_enabled = local.is_cluster || var.size.replicas > 0
  multi_az_enabled           = var.size.replicas > 0

  transit_encryption_enabled = true
  transit_encryption_mode    = "required"
  at_rest_encryption_enabled = true
  kms_key_id                 = var.kms_key_arn
  auth_token_wo              = jsondecode(ephemeral.aws_secretsmanager_secret_version.token.secret_string)["token"]
  auth_token_wo_version      = var.token_version
  auth_token_update_strategy = "ROTATE"

  auto_minor_version_upgrade = true
  snapshot_retention_limit   = var.size.snapshot_days
  snapshot_window            = "02:00-03:00"
  maintenance_window         = "sun:04:00-sun:05:00"
  apply_immediately          = false

  dynamic "log_delivery_configuration" {
    for_each = aws_cloudwatch_log_group.this

    content {
      destination      = log_delivery_configuration.value.name
      destination_type = "cloudwatch-logs"
      log_format       = "json"
      log_type         = log_delivery_configuration.key
    }
  }
}

# ---- What hotcache reads: the URL with the token in it

locals {
  host = local.is_cluster ? aws_elasticache_replication_group.this.configuration_endpoint_address : aws_elasticache_replication_group.this.primary_endpoint_address
}

resource "aws_secretsmanager_secret" "url" {
  name_prefix             = "${var.name}/cache/url-"
  description             = "ATLAS_VALKEY__URL of hotcache."
  kms_key_id              = var.secrets_key_arn
  recovery_window_in_days = 30
}

resource "aws_secretsmanager_secret_version" "url" {
  secret_id = aws_secretsmanager_secret.url.id
  secret_string_wo = join("", [
    local.is_cluster ? "rediss+cluster" : "rediss", "://:",
    jsondecode(ephemeral.aws_secretsmanager_secret_version.token.secret_string)["token"],
    "@${local.host}:6379", local.is_cluster ? "" : "/0", "?ssl_ca_certs=${var.trust_path}",
  ])
  secret_string_wo_version = var.token_version
}
