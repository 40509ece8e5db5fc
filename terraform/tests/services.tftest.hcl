# What runs: each task with roles of its own, read-only, restarted when it is not ready, taken back when it does not come up.

provider "aws" {
  region                      = "eu-central-1"
  access_key                  = "offline"
  secret_key                  = "offline"
  skip_credentials_validation = true
  skip_requesting_account_id  = true
  skip_metadata_api_check     = true
}

variables {
  cluster_name      = "atlas-test"
  cluster_arn       = "arn:aws:ecs:eu-central-1:000000000000:cluster/atlas-test"
  namespace_arn     = "arn:aws:servicediscovery:eu-central-1:000000000000:namespace/ns-test"
  subnet_ids        = ["subnet-a", "subnet-b", "subnet-c"]
  security_group_id = "sg-query"
  tasks_min         = 2
  tasks_max         = 6
  spot_share        = 0
  task = {
    prefix          = "atlas-test"
    name            = "query"
    region          = "eu-central-1"
    image           = "registry.example/query:1.2.3"
    repository_arns = ["arn:aws:ecr:eu-central-1:000000000000:repository/query"]
    cpu             = 1024
    memory          = 2048
    ports           = { calls = 7000, health = 7001, peers = 7002 }
    pki_secret_arn  = "arn:aws:secretsmanager:eu-central-1:000000000000:secret:pki"
    environment     = { ATLAS_RPC__PORT = "7000" }
    secrets         = { PGPASSWORD = "arn:aws:secretsmanager:eu-central-1:000000000000:secret:db/atlas_query:password::" }
    secrets_key_arn = "arn:aws:kms:eu-central-1:000000000000:key/secrets"
    trust           = { secret_arn = "arn:aws:secretsmanager:eu-central-1:000000000000:secret:trust", path = "/run/atlas/trust.pem" }
    collector = {
      image         = "registry.example/collector:1"
      parameter_arn = "arn:aws:ssm:eu-central-1:000000000000:parameter/atlas-test/collector"
      log_group_arn = "arn:aws:logs:eu-central-1:000000000000:log-group:/atlas/test/metrics"
    }
    logs_key_arn = "arn:aws:kms:eu-central-1:000000000000:key/logs"
    log_days     = 14
  }
}

run "many_tasks" {
  command = plan

  module {
    source = "./modules/service"
  }

  variables {
    rollback_alarms = ["atlas-test-ErrorBudget-query-fast-short"]
  }

  assert {
    condition     = aws_ecs_service.this.deployment_circuit_breaker[0].enable && aws_ecs_service.this.deployment_circuit_breaker[0].rollback && aws_ecs_service.this.alarms[0].rollback
    error_message = "a bad deployment is not undone"
  }

  assert {
    condition     = aws_ecs_service.this.deployment_minimum_healthy_percent == 100 && aws_ecs_service.this.network_configuration[0].assign_public_ip == false
    error_message = "a deployment takes capacity away, or tasks have public addresses"
  }

  assert {
    condition     = aws_ecs_service.this.service_connect_configuration[0].service[0].client_alias[0].dns_name == "query" && aws_ecs_service.this.service_connect_configuration[0].service[0].client_alias[0].port == 7002
    error_message = "others do not find it by its name, at the port that asks for certificates"
  }

  assert {
    condition     = join(" ", sort(keys(aws_appautoscaling_policy.this))) == "cpu memory" && aws_appautoscaling_target.this[0].max_capacity == 6
    error_message = "it does not scale"
  }
}

run "one_task_at_a_time" {
  command = plan

  module {
    source = "./modules/service"
  }

  variables {
    tasks_min  = 1
    tasks_max  = 1
    is_single  = true
    spot_share = 9
  }

  assert {
    condition     = aws_ecs_service.this.deployment_maximum_percent == 100 && aws_ecs_service.this.deployment_minimum_healthy_percent == 0
    error_message = "two tasks could own one file"
  }

  assert {
    condition     = length(aws_appautoscaling_target.this) == 0 && length(aws_ecs_service.this.capacity_provider_strategy) == 1
    error_message = "it scales, or could be taken away by Spot"
  }
}

run "task" {
  command = plan

  module {
    source = "./modules/task"
  }

  override_resource {
    target          = aws_cloudwatch_log_group.this
    override_during = plan
    values          = { arn = "arn:aws:logs:eu-central-1:000000000000:log-group:/atlas/atlas-test/query" }
  }

  variables {
    prefix          = var.task.prefix
    name            = var.task.name
    region          = var.task.region
    image           = var.task.image
    repository_arns = var.task.repository_arns
    cpu             = 1024
    memory          = 2048
    ports           = var.task.ports
    pki_secret_arn  = var.task.pki_secret_arn
    environment     = var.task.environment
    secrets         = var.task.secrets
    secrets_key_arn = var.task.secrets_key_arn
    trust           = var.task.trust
    collector       = var.task.collector
    logs_key_arn    = var.task.logs_key_arn
    log_days        = 14
  }

  assert {
    condition     = alltrue([for container in jsondecode(output.container_definitions) : container.readonlyRootFilesystem])
    error_message = "a container can write to its root"
  }

  assert {
    condition     = join(" ", [for container in jsondecode(output.container_definitions) : container.user if container.essential]) == "10001:10001"
    error_message = "the process runs as root"
  }

  assert {
    condition     = length([for container in jsondecode(output.container_definitions) : container if can(container.healthCheck)]) == 1
    error_message = "nobody asks whether it is ready"
  }

  assert {
    condition     = !strcontains(output.container_definitions, "\"PGPASSWORD\",\"value\"")
    error_message = "a secret is a plain variable"
  }

  # Only what knows no resources may name them all.
  assert {
    condition = alltrue([
      for statement in data.aws_iam_policy_document.execution.statement :
      !contains(statement.resources, "*") || join(" ", statement.actions) == "ecr:GetAuthorizationToken"
    ])
    error_message = "the execution role may do more than start this task"
  }

  assert {
    condition = join(" ", flatten([for statement in data.aws_iam_policy_document.execution.statement : sort(statement.resources) if statement.sid == "Secrets"])) == join(" ", [
      "arn:aws:secretsmanager:eu-central-1:000000000000:secret:db/atlas_query", "arn:aws:secretsmanager:eu-central-1:000000000000:secret:pki",
      "arn:aws:secretsmanager:eu-central-1:000000000000:secret:trust",
    ])
    error_message = "it may read other secrets than its own"
  }
}
