# ---- What COPY reads with: the files under way, and nothing else

data "aws_iam_policy_document" "copy_trust" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["redshift-serverless.amazonaws.com", "redshift.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [var.account_id]
    }
  }
}

data "aws_iam_policy_document" "copy" {
  statement {
    sid       = "Files"
    actions   = ["s3:GetObject"]
    resources = ["${var.bucket_arn}/${var.prefix}/*"]
  }

  statement {
    sid       = "TheirNames"
    actions   = ["s3:ListBucket"]
    resources = [var.bucket_arn]

    condition {
      test     = "StringLike"
      variable = "s3:prefix"
      values   = ["${var.prefix}/*"]
    }
  }

  statement {
    sid       = "TheirKey"
    actions   = ["kms:Decrypt"]
    resources = [var.kms_key_arn]

    condition {
      test     = "StringEquals"
      variable = "kms:ViaService"
      values   = ["s3.${var.region}.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "copy" {
  name               = "${var.name}-redshift-copy"
  assume_role_policy = data.aws_iam_policy_document.copy_trust.json
}

resource "aws_iam_role_policy" "copy" {
  name   = "read"
  role   = aws_iam_role.copy.id
  policy = data.aws_iam_policy_document.copy.json
}

# ---- Namespace and workgroup

resource "aws_redshiftserverless_namespace" "this" {
  namespace_name                   = var.name
  db_name                          = var.database
  admin_username                   = "atlas_admin"
  manage_admin_password            = true
  admin_password_secret_kms_key_id = var.secrets_key_arn
  kms_key_id                       = var.kms_key_arn
  iam_roles                        = [aws_iam_role.copy.arn]
  default_iam_role_arn             = aws_iam_role.copy.arn
  log_exports                      = ["userlog", "connectionlog", "useractivitylog"]

  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_redshiftserverless_workgroup" "this" {
  workgroup_name       = var.name
  namespace_name       = aws_redshiftserverless_namespace.this.namespace_name
  base_capacity        = var.size.base_rpu
  max_capacity         = var.size.max_rpu
  subnet_ids           = var.subnet_ids
  security_group_ids   = [var.security_group_id]
  publicly_accessible  = false
  enhanced_vpc_routing = true
  port                 = 5439

  dynamic "config_parameter" {
    for_each = {
      auto_mv                      = "true"
      datestyle                    = "ISO, MDY"
      enable_user_activity_logging = "true"
      max_query_execution_time     = "3600"
      query_group                  = "default"
      require_ssl                  = "true"
      search_path                  = "$user, public"
      use_fips_ssl                 = "false"
    }

    content {
      parameter_key   = config_parameter.key
      parameter_value = config_parameter.value
    }
  }
}

resource "aws_redshiftserverless_usage_limit" "day" {
  resource_arn  = aws_redshiftserverless_workgroup.this.arn
  usage_type    = "serverless-compute"
  period        = "daily"
  amount        = var.size.rpu_hours_a_day
  breach_action = "emit-metric"
}

# ---- The loader's password

ephemeral "random_password" "loader" {
  length  = 40
  special = false
}

resource "aws_secretsmanager_secret" "loader" {
  name_prefix             = "${var.name}/redshift/${var.loader}-"
  description             = "User and password with which the warehouse is loaded."
  kms_key_id              = var.secrets_key_arn
  recovery_window_in_days = 30
}

resource "aws_secretsmanager_secret_version" "loader" {
  secret_id                = aws_secretsmanager_secret.loader.id
  secret_string_wo         = jsonencode({ username = var.loader, password = ephemeral.random_password.loader.result })
  secret_string_wo_version = var.loader_password_version
}
