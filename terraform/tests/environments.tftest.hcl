# The whole root, planned for each environment. Nothing is asked of AWS: credentials are made up, answers given here.

provider "aws" {
  region                      = "eu-central-1"
  access_key                  = "offline"
  secret_key                  = "offline"
  skip_credentials_validation = true
  skip_requesting_account_id  = true
  skip_metadata_api_check     = true
}

provider "aws" {
  alias                       = "dr"
  region                      = "eu-west-1"
  access_key                  = "offline"
  secret_key                  = "offline"
  skip_credentials_validation = true
  skip_requesting_account_id  = true
  skip_metadata_api_check     = true
}

override_data {
  target = data.aws_caller_identity.this
  values = { account_id = "000000000000" }
}

override_data {
  target = data.aws_acm_certificate.this
  values = { arn = "arn:aws:acm:eu-central-1:000000000000:certificate/00000000-0000-4000-8000-000000000000" }
}

variables {
  region          = "eu-central-1"
  dr_region       = "eu-west-1"
  zones           = ["eu-central-1a", "eu-central-1b", "eu-central-1c"]
  dr_zones        = ["eu-west-1a", "eu-west-1b", "eu-west-1c"]
  owner           = "telemetry"
  cost_center     = "telemetry"
  domain          = "telemetry.atlas.example"
  client_cidrs    = ["10.0.0.0/12"]
  issuer          = { jwks = "https://login.atlas.example/keys", name = "login", audience = "atlas", cidrs = ["10.1.0.0/16"] }
  debezium_plugin = { key = "debezium.zip", version = "1" }
  image_tags = {
    ingest         = "1.0.0"
    hotcache       = "1.0.0"
    query          = "1.0.0"
    cdc-reconciler = "1.0.0"
    cdc-redshift   = "1.0.0"
    db             = "1.0.0"
    collector      = "1.0.0"
  }
}

run "dev" {
  command = plan

  variables {
    environment = "dev"
  }

  assert {
    condition     = length(setsubtract(["ingest", "hotcache", "query", "cdc-reconciler", "indexer", "probe"], keys(output.task_roles))) == 0
    error_message = "a service is missing"
  }

  assert {
    condition     = length(distinct(values(output.task_roles))) == length(output.task_roles)
    error_message = "two processes share a role in AWS"
  }

  assert {
    condition = length(setsubtract([
      "StagingBacklogHigh", "ReplicaLagHigh-replica-1", "WarehouseLagHigh", "VerifiedThroughOld", "DeadLetters",
      "IngestDeadLetters", "QueueDeadLetters", "RetainedWalLarge", "SlotAboutToBeLost", "BreakerOpen", "ErrorBudgetBurnFast-ingest",
      "ErrorBudgetBurnFast-query", "ErrorBudgetBurnSlow-hotcache", "ErrorBudgetBurnSlow-cdc-reconciler",
    ], keys(output.alarms))) == 0
    error_message = "an alarm that is promised is missing in dev"
  }

  assert {
    condition     = output.environments["query"].variables["ATLAS_ENVIRONMENT"] == "dev"
    error_message = "services do not know their environment"
  }
}

run "staging" {
  command = plan

  variables {
    environment = "staging"
  }

  assert {
    condition     = alltrue([for name in values(output.alarms) : startswith(name, "atlas-staging-")])
    error_message = "alarms of environments in one account would be one"
  }

  assert {
    condition = length(setsubtract([
      "StagingBacklogHigh", "ReplicaLagHigh-replica-1", "WarehouseLagHigh", "VerifiedThroughOld", "DeadLetters", "RetainedWalLarge",
      "BreakerOpen", "ErrorBudgetBurnFast-ingest", "ErrorBudgetBurnSlow-query", "ConnectorDown", "ServiceDown-cdc-redshift",
    ], keys(output.alarms))) == 0
    error_message = "an alarm that is promised is missing in staging"
  }
}

run "prod" {
  command = plan

  variables {
    environment = "prod"
  }

  assert {
    condition     = length(distinct(values(output.task_roles))) == length(output.task_roles) && contains(keys(output.task_roles), "cdc-redshift")
    error_message = "two processes share a role in AWS, or the loader is missing"
  }

  assert {
    condition = length(setsubtract([
      "StagingBacklogHigh", "ReplicaLagHigh-replica-1", "ReplicaLagHigh-replica-2", "WarehouseLagHigh", "VerifiedThroughOld", "RetainedWalLarge",
      "DeadLetters", "BreakerOpen", "ErrorBudgetBurnFast-ingest", "ErrorBudgetBurnFast-query", "BackupFailed",
      "ServiceDown-ingest", "ServiceDown-query", "CacheMemory-atlas-prod-0003-002",
    ], keys(output.alarms))) == 0
    error_message = "an alarm that is promised is missing in prod"
  }

  assert {
    condition     = local.config.is_protected && local.config.postgres.multi_az && local.config.backup.is_locked && local.config.standby.has_backups
    error_message = "prod can be deleted, or does not come through the loss of a zone or a region"
  }

  assert {
    condition     = join(" ", keys(local.env_config.dev)) == join(" ", keys(local.env_config.prod)) && join(" ", keys(local.env_config.staging)) == join(" ", keys(local.env_config.prod))
    error_message = "environments differ in more than their sizes"
  }

  assert {
    condition     = !anytrue([for process in values(output.environments) : anytrue([for name in keys(process.variables) : endswith(name, "PASSWORD") || endswith(name, "KEYS")])])
    error_message = "a secret is among the plain variables"
  }

  assert {
    condition     = alltrue([for process in values(output.environments) : !contains(keys(process.variables), "ATLAS_IDENTITY__MODE")])
    error_message = "a service believes whoever calls"
  }

  assert {
    condition = alltrue([
      for service in ["ingest", "query"] : endswith(output.environments[service].variables["ATLAS_HOTCACHE__TARGET"],
      output.environments["hotcache"].variables["ATLAS_RPC__PEER_PORT"])
    ])
    error_message = "services call the cache where no certificate is asked for"
  }

  assert {
    condition     = alltrue([for process in values(output.environments) : contains(process.secrets, "PGPASSWORD")])
    error_message = "a process has no database password"
  }
}

run "one_tag_changes_one_service" {
  command = plan

  override_resource {
    target          = module.registry.aws_ecr_repository.this
    override_during = plan
    values          = { repository_url = "registry.example/atlas" }
  }

  variables {
    environment = "prod"
    image_tags = {
      ingest         = "1.0.0"
      hotcache       = "1.0.0"
      query          = "2.0.0"
      cdc-reconciler = "1.0.0"
      cdc-redshift   = "1.0.0"
      db             = "1.0.0"
      collector      = "1.0.0"
    }
  }

  assert {
    condition     = join(" ", [for service, image in output.images : service if endswith(image, ":2.0.0")]) == "query"
    error_message = "a tag of query is to change query, and nothing else"
  }
}

run "keys_of_tokens_come_by_tls" {
  command = plan

  variables {
    environment = "dev"
    issuer      = { jwks = "http://login.atlas.example/keys", name = "login", audience = "atlas", cidrs = ["10.1.0.0/16"] }
  }

  expect_failures = [var.issuer]
}

run "an_unknown_environment_is_refused" {
  command = plan

  variables {
    environment = "qa"
  }

  expect_failures = [var.environment]
}

run "the_internet_is_no_client" {
  command = plan

  variables {
    environment  = "dev"
    client_cidrs = ["0.0.0.0/0"]
  }

  expect_failures = [var.client_cidrs]
}
