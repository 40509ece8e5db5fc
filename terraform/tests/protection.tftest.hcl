# What guards the platform: the ways in, keys, backups.

provider "aws" {
  region                      = "eu-central-1"
  access_key                  = "offline"
  secret_key                  = "offline"
  skip_credentials_validation = true
  skip_requesting_account_id  = true
  skip_metadata_api_check     = true
}

variables {
  name              = "atlas-test"
  account_id        = "000000000000"
  partition         = "aws"
  subnet_ids        = ["subnet-a", "subnet-b", "subnet-c"]
  security_group_id = "sg-test"
  kms_key_arn       = "arn:aws:kms:eu-central-1:000000000000:key/data"
}

run "ingress" {
  command = plan

  module {
    source = "./modules/ingress"
  }

  variables {
    vpc_id          = "vpc-test"
    certificate_arn = "arn:aws:acm:eu-central-1:000000000000:certificate/test"
    log_bucket_id   = "logs"
    protected       = true
    routes          = { query = ["/atlas.query.v1.QueryService/*"] }
    ports           = { calls = 7000, health = 7001 }
    drain_seconds   = 20
  }

  assert {
    condition     = aws_lb.this.internal && aws_lb.this.enable_deletion_protection
    error_message = "the load balancer can be reached from the internet, or deleted"
  }

  assert {
    condition     = aws_lb_listener.this.protocol == "HTTPS" && strcontains(aws_lb_listener.this.ssl_policy, "TLS13")
    error_message = "clients come without TLS, or with an old one"
  }

  assert {
    condition     = aws_lb_target_group.this["query"].protocol_version == "GRPC" && aws_lb_target_group.this["query"].health_check[0].path == "/grpc.health.v1.Health/Check"
    error_message = "targets are not asked in gRPC whether they are well"
  }

  assert {
    condition     = aws_lb_target_group.this["query"].protocol == "HTTPS" && aws_lb_target_group.this["query"].health_check[0].port == "7001"
    error_message = "tokens go in the clear from the load balancer to tasks"
  }
}

run "proxy" {
  command = plan

  module {
    source = "./modules/proxy"
  }

  variables {
    region              = "eu-central-1"
    db_instance_id      = "atlas-test"
    secrets             = { atlas_query = "arn:aws:secretsmanager:eu-central-1:000000000000:secret:query" }
    secrets_key_arn     = "arn:aws:kms:eu-central-1:000000000000:key/secrets"
    logs_key_arn        = "arn:aws:kms:eu-central-1:000000000000:key/logs"
    connections_percent = 70
    log_days            = 14
  }

  assert {
    condition     = aws_db_proxy.this.require_tls && !aws_db_proxy.this.debug_logging
    error_message = "the proxy talks without TLS, or logs statements"
  }

  # A caller is to hear that there is no connection before its own patience, 2 s, is over.
  assert {
    condition     = aws_db_proxy_default_target_group.this.connection_pool_config[0].connection_borrow_timeout < 2
    error_message = "the proxy waits longer than services do"
  }
}

run "keys" {
  command = plan

  module {
    source = "./modules/keys"
  }

  variables {
    keys = { data = { description = "d", cluster = "atlas-test" }, logs = { description = "l", services = ["cloudwatch.amazonaws.com"], logs = "logs.eu-central-1.amazonaws.com" } }
  }

  assert {
    condition     = alltrue([for key in aws_kms_key.this : key.enable_key_rotation && key.deletion_window_in_days == 30])
    error_message = "a key does not rotate, or is gone at once"
  }

  # Only this account is let in without a condition.
  assert {
    condition = alltrue([
      for statement in jsondecode(data.aws_iam_policy_document.this["logs"].json).Statement : can(statement.Condition) || can(statement.Principal.AWS)
    ])
    error_message = "a service may use a key for others"
  }
}

run "files" {
  command = plan

  module {
    source = "./modules/files"
  }

  variables {
    directories = ["warehouse", "archive"]
  }

  assert {
    condition     = tostring(aws_efs_file_system.this.encrypted) == "true" && aws_efs_file_system.this.tags["Backup"] == "true"
    error_message = "files are not encrypted, or not backed up"
  }

  assert {
    condition     = length(aws_efs_access_point.this) == 2
    error_message = "directories share an access point"
  }
}

run "backup" {
  command = plan

  module {
    source = "./modules/backup"
  }

  variables {
    dr_region      = "eu-west-1"
    dr_kms_key_arn = "arn:aws:kms:eu-west-1:000000000000:key/data"
    days           = 35
    copy_days      = 35
    is_locked      = true
    restore_tests  = true
    database_arn   = "arn:aws:rds:eu-central-1:000000000000:db:atlas-test"
    topic_arn      = "arn:aws:sns:eu-central-1:000000000000:ticket"
  }

  assert {
    condition     = aws_backup_vault.dr[0].region == "eu-west-1" && length(tolist(aws_backup_plan.this.rule)[0].copy_action) == 1
    error_message = "backups do not leave the region"
  }

  assert {
    condition     = length(aws_backup_vault_lock_configuration.this) == 1 && length(aws_backup_vault_lock_configuration.dr) == 1
    error_message = "backups can be deleted before their time"
  }

  assert {
    condition     = length(aws_backup_restore_testing_plan.this) == 1
    error_message = "nobody tries whether backups can be restored"
  }
}
