locals {
  family = "postgres${var.engine_version}"

  # A standby refuses to start with less of these than its primary has: both groups get them.
  everywhere = {
    "rds.logical_replication"             = { value = "1", static = true }
    "rds.force_ssl"                       = { value = "1", static = false }
    "shared_preload_libraries"            = { value = "pg_stat_statements,pg_cron,pg_partman_bgw", static = true }
    "cron.database_name"                  = { value = var.database, static = true }
    "pg_partman_bgw.dbname"               = { value = var.database, static = false }
    "pg_partman_bgw.interval"             = { value = "600", static = false }
    "max_connections"                     = { value = tostring(var.size.max_connections), static = true }
    "max_replication_slots"               = { value = "20", static = true }
    "max_wal_senders"                     = { value = "25", static = true }
    "max_worker_processes"                = { value = "16", static = true }
    "hot_standby_feedback"                = { value = "1", static = false }
    "max_slot_wal_keep_size"              = { value = tostring(var.size.slot_wal_mb_max), static = false } # MB
    "max_wal_size"                        = { value = tostring(var.size.max_wal_mb), static = false }      # MB
    "checkpoint_timeout"                  = { value = "300", static = false }                              # s
    "wal_compression"                     = { value = "1", static = false }
    "wal_sender_timeout"                  = { value = "10000", static = false } # ms
    "wal_receiver_timeout"                = { value = "10000", static = false } # ms
    "jit"                                 = { value = "0", static = false }
    "track_io_timing"                     = { value = "1", static = false }
    "log_min_duration_statement"          = { value = "1000", static = false } # ms
    "log_lock_waits"                      = { value = "1", static = false }
    "log_connections"                     = { value = "0", static = false }
    "idle_in_transaction_session_timeout" = { value = "60000", static = false } # ms
    "autovacuum_naptime"                  = { value = "20", static = false }    # s
    "max_standby_streaming_delay"         = { value = "2000", static = false }  # ms; below the replicas' budget of 3 s
    "password_encryption"                 = { value = "scram-sha-256", static = false }
  }

  primary_only = length(var.synchronized_standby_slots) == 0 ? {} : {
    "synchronized_standby_slots" = { value = join(",", var.synchronized_standby_slots), static = false }
  }

  replica_only = {
    "sync_replication_slots"       = { value = "1", static = false }
    "rds.logical_slot_sync_dbname" = { value = var.database, static = false }
    "wal_receiver_status_interval" = { value = "1", static = false } # s
  }

  replicas = { for number in range(1, var.size.replicas + 1) : "replica-${number}" => number }
  names    = merge({ primary = var.name }, { for replica, _ in local.replicas : replica => "${var.name}-${replica}" })
}

resource "aws_db_subnet_group" "this" {
  name        = var.name
  description = "Isolated subnets of ${var.name}."
  subnet_ids  = var.subnet_ids
}

resource "aws_db_parameter_group" "primary" {
  name_prefix = "${var.name}-primary-"
  description = "What the platform needs of its primary."
  family      = local.family

  dynamic "parameter" {
    for_each = merge(local.everywhere, local.primary_only)

    content {
      name  = parameter.key
      value = parameter.value.value
      # A static one that is applied at once never settles.
      apply_method = parameter.value.static ? "pending-reboot" : "immediate"
    }
  }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_db_parameter_group" "replica" {
  name_prefix = "${var.name}-replica-"
  description = "The same of replicas, which synchronise logical slots."
  family      = local.family

  dynamic "parameter" {
    for_each = merge(local.everywhere, local.replica_only)

    content {
      name         = parameter.key
      value        = parameter.value.value
      apply_method = parameter.value.static ? "pending-reboot" : "immediate"
    }
  }

  lifecycle {
    create_before_destroy = true
  }
}

# ---- The administrator. RDS has no replicas of a source whose password it manages itself: the secret is ours.

ephemeral "random_password" "admin" {
  length  = 40
  special = false
}

resource "aws_secretsmanager_secret" "admin" {
  name_prefix             = "${var.name}/db/administrator-"
  description             = "Administrator of ${var.name}: for migrations, not for services."
  kms_key_id              = var.secrets_key_arn
  recovery_window_in_days = 30
}

resource "aws_secretsmanager_secret_version" "admin" {
  secret_id                = aws_secretsmanager_secret.admin.id
  secret_string_wo         = jsonencode({ username = "atlas_admin", password = ephemeral.random_password.admin.result })
  secret_string_wo_version = var.admin_password_version
}

# Read back: the random value is another at each run, and an apply that failed half way would part secret and database.
ephemeral "aws_secretsmanager_secret_version" "admin" {
  secret_id = aws_secretsmanager_secret_version.admin.secret_id
}

# ---- Logs

resource "aws_cloudwatch_log_group" "postgres" {
  for_each = local.names

  name              = "/aws/rds/instance/${each.value}/postgresql"
  retention_in_days = var.log_days
  kms_key_id        = var.logs_key_arn
}

data "aws_iam_policy_document" "monitoring_trust" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["monitoring.rds.amazonaws.com"]
    }
  }
}

data "aws_partition" "this" {}

resource "aws_iam_role" "monitoring" {
  name               = "${var.name}-rds-monitoring"
  assume_role_policy = data.aws_iam_policy_document.monitoring_trust.json
}

resource "aws_iam_role_policy_attachment" "monitoring" {
  role       = aws_iam_role.monitoring.name
  policy_arn = "arn:${data.aws_partition.this.partition}:iam::aws:policy/service-role/AmazonRDSEnhancedMonitoringRole"
}

# ---- Instances

resource "aws_db_instance" "primary" {
  identifier                          = var.name
  engine                              = "postgres"
  engine_version                      = var.engine_version
  auto_minor_version_upgrade          = true
  allow_major_version_upgrade         = false
  instance_class                      = var.size.instance_class
  multi_az                            = var.size.multi_az
  db_name                             = var.database
  port                                = 5432
  username                            = "atlas_admin"
  password_wo                         = jsondecode(ephemeral.aws_secretsmanager_secret_version.admin.secret_string)["password"]
  password_wo_version                 = var.admin_password_version
  iam_database_authentication_enabled = true
  ca_cert_identifier                  = "rds-ca-rsa2048-g1"
  publicly_accessible                 = false
  db_subnet_group_name                = aws_db_subnet_group.this.name
  vpc_security_group_ids              = [var.security_group_id]
  parameter_group_name                = aws_db_parameter_group.primary.name

  storage_type          = "gp3"
  allocated_storage     = var.size.storage_gb
  max_allocated_storage = var.size.storage_gb_max
  iops                  = var.size.iops
  storage_throughput    = var.size.throughput
  storage_encrypted     = true
  kms_key_id            = var.kms_key_arn

  backup_retention_period   = var.size.backup_days
  backup_window             = "01:00-02:00"
  maintenance_window        = "sun:03:00-sun:04:00"
  copy_tags_to_snapshot     = true
  delete_automated_backups  = false
  deletion_protection       = var.protected
  skip_final_snapshot       = false
  final_snapshot_identifier = "${var.name}-final"
  apply_immediately         = false

  monitoring_interval                   = var.size.monitoring_interval_s
  monitoring_role_arn                   = aws_iam_role.monitoring.arn
  performance_insights_enabled          = true
  performance_insights_kms_key_id       = var.kms_key_arn
  performance_insights_retention_period = var.size.insights_days
  enabled_cloudwatch_logs_exports       = ["postgresql", "upgrade"]

  tags = { Backup = "true" }

  depends_on = [aws_cloudwatch_log_group.postgres, aws_iam_role_policy_attachment.monitoring]

  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_db_instance" "replica" {
  for_each = local.replicas

  identifier                          = local.names[each.key]
  replicate_source_db                 = aws_db_instance.primary.identifier
  auto_minor_version_upgrade          = true
  instance_class                      = var.size.replica_class
  availability_zone                   = var.zones[each.value % length(var.zones)]
  multi_az                            = false
  port                                = 5432
  iam_database_authentication_enabled = true
  ca_cert_identifier                  = "rds-ca-rsa2048-g1"
  publicly_accessible                 = false
  vpc_security_group_ids              = [var.security_group_id]
  parameter_group_name                = aws_db_parameter_group.replica.name

  storage_type          = "gp3"
  max_allocated_storage = var.size.storage_gb_max
  iops                  = var.size.iops
  storage_throughput    = var.size.throughput
  storage_encrypted     = true
  kms_key_id            = var.kms_key_arn

  backup_retention_period = 1 # Promoted, it has backups at once.
  maintenance_window      = "sun:05:00-sun:06:00"
  copy_tags_to_snapshot   = true
  deletion_protection     = var.protected
  skip_final_snapshot     = true
  apply_immediately       = false

  monitoring_interval                   = var.size.monitoring_interval_s
  monitoring_role_arn                   = aws_iam_role.monitoring.arn
  performance_insights_enabled          = true
  performance_insights_kms_key_id       = var.kms_key_arn
  performance_insights_retention_period = var.size.insights_days
  enabled_cloudwatch_logs_exports       = ["postgresql", "upgrade"]

  depends_on = [aws_cloudwatch_log_group.postgres]
}
