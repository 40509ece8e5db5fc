# Snapshots and log, to a point in time: what restores where the primary's region is lost.
resource "aws_db_instance_automated_backups_replication" "this" {
  source_db_instance_arn = var.source_arn
  kms_key_id             = var.kms_key_arn
  retention_period       = var.retention_days
}

resource "aws_db_subnet_group" "this" {
  count = var.replica == null ? 0 : 1

  name        = "${var.name}-dr"
  description = "Isolated subnets of ${var.name} in its second region."
  subnet_ids  = var.replica.subnet_ids
}

resource "aws_db_parameter_group" "this" {
  count = var.replica == null ? 0 : 1

  name_prefix = "${var.name}-dr-"
  description = "A primary's parameters that matter once this is one."
  family      = var.replica.family

  dynamic "parameter" {
    for_each = {
      "rds.logical_replication"  = "pending-reboot"
      "rds.force_ssl"            = "immediate"
      "hot_standby_feedback"     = "immediate"
      "shared_preload_libraries" = "pending-reboot"
    }

    content {
      name         = parameter.key
      value        = parameter.key == "shared_preload_libraries" ? "pg_stat_statements,pg_cron,pg_partman_bgw" : "1"
      apply_method = parameter.value
    }
  }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_db_instance" "this" {
  count = var.replica == null ? 0 : 1

  identifier                          = "${var.name}-dr"
  replicate_source_db                 = var.source_arn
  instance_class                      = var.replica.instance_class
  auto_minor_version_upgrade          = true
  multi_az                            = false
  iam_database_authentication_enabled = true
  publicly_accessible                 = false
  db_subnet_group_name                = aws_db_subnet_group.this[0].name
  vpc_security_group_ids              = [var.replica.security_group_id]
  parameter_group_name                = aws_db_parameter_group.this[0].name
  storage_encrypted                   = true
  kms_key_id                          = var.kms_key_arn
  copy_tags_to_snapshot               = true
  deletion_protection                 = var.replica.protected
  skip_final_snapshot                 = true
  backup_retention_period             = 1 # Promoted, it has backups at once.
  monitoring_interval                 = 60
  monitoring_role_arn                 = var.replica.monitoring_arn
  performance_insights_enabled        = true
  performance_insights_kms_key_id     = var.kms_key_arn
  enabled_cloudwatch_logs_exports     = ["postgresql", "upgrade"]
}
