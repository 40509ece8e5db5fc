locals {
  copies = var.replica_region == null ? {} : { (var.replica_region) = var.replica_key_arn }
}

ephemeral "random_password" "role" {
  for_each = var.roles

  length  = 40
  special = false
}

resource "aws_secretsmanager_secret" "role" {
  for_each = var.roles

  name_prefix             = "${var.name}/db/${each.key}-"
  description             = "Password of the database role ${each.key}."
  kms_key_id              = var.kms_key_arn
  recovery_window_in_days = 30

  dynamic "replica" {
    for_each = local.copies

    content {
      region     = replica.key
      kms_key_id = replica.value
    }
  }
}

# In the form that RDS Proxy and the rotation read.
resource "aws_secretsmanager_secret_version" "role" {
  for_each = var.roles

  secret_id = aws_secretsmanager_secret.role[each.key].id
  secret_string_wo = jsonencode({
    engine   = "postgres"
    host     = var.database.host
    port     = var.database.port
    dbname   = var.database.name
    username = each.key
    password = ephemeral.random_password.role[each.key].result
  })
  secret_string_wo_version = var.passwords_version
}

ephemeral "random_password" "token_key" {
  length  = 32
  special = false
}

resource "aws_secretsmanager_secret" "token_keys" {
  name_prefix             = "${var.name}/token-keys-"
  description             = "Keys of freshness and page tokens, as ATLAS_TOKEN__KEYS has them."
  kms_key_id              = var.kms_key_arn
  recovery_window_in_days = 30

  dynamic "replica" {
    for_each = local.copies

    content {
      region     = replica.key
      kms_key_id = replica.value
    }
  }
}

resource "aws_secretsmanager_secret_version" "token_keys" {
  secret_id                = aws_secretsmanager_secret.token_keys.id
  secret_string_wo         = jsonencode({ "1" = base64encode(ephemeral.random_password.token_key.result) })
  secret_string_wo_version = var.token_keys_version
}

# Certificates are no secrets, but this is where a task gets a text from. Filled by hand: terraform/README.md has the command.
resource "aws_secretsmanager_secret" "trust" {
  name_prefix             = "${var.name}/trust-"
  description             = "PEM of the authorities that signed the certificates of RDS and of Amazon's services in this region."
  kms_key_id              = var.kms_key_arn
  recovery_window_in_days = 30
}

# Of the organisation's PKI, filled by hand or by it: terraform/README.md has the form.
resource "aws_secretsmanager_secret" "pki" {
  for_each = var.services

  name_prefix             = "${var.name}/pki/${each.key}-"
  description             = "Certificate of ${each.key}, its key, and the authority of all services' certificates."
  kms_key_id              = var.kms_key_arn
  recovery_window_in_days = 30

  dynamic "replica" {
    for_each = local.copies

    content {
      region     = replica.key
      kms_key_id = replica.value
    }
  }
}
