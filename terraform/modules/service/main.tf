module "task" {
  source = "../task"

  prefix          = var.task.prefix
  name            = var.task.name
  region          = var.task.region
  image           = var.task.image
  repository_arns = var.task.repository_arns
  cpu             = var.task.cpu
  memory          = var.task.memory
  entry_point     = var.task.entry_point
  command         = var.task.command
  ports           = var.task.ports
  pki_secret_arn  = var.task.pki_secret_arn
  environment     = var.task.environment
  secrets         = var.task.secrets
  secrets_key_arn = var.task.secrets_key_arn
  trust           = var.task.trust
  collector       = var.task.collector
  policies        = var.task.policies
  mount           = var.task.mount
  stop_seconds    = var.task.stop_seconds
  logs_key_arn    = var.task.logs_key_arn
  log_days        = var.task.log_days
}

resource "aws_ecs_service" "this" {
  name            = var.task.name
  cluster         = var.cluster_arn
  task_definition = module.task.arn
  desired_count   = var.tasks_min

  deployment_minimum_healthy_percent = var.is_single ? 0 : 100
  deployment_maximum_percent         = var.is_single ? 100 : 200
  availability_zone_rebalancing      = var.is_single ? "DISABLED" : "ENABLED"
  health_check_grace_period_seconds  = length(var.target_groups) > 0 ? 60 : null
  enable_execute_command             = false
  enable_ecs_managed_tags            = true
  propagate_tags                     = "SERVICE"
  platform_version                   = "LATEST"

  capacity_provider_strategy {
    capacity_provider = "FARGATE"
    base              = 1
    weight            = var.is_single ? 1 : 10 - var.spot_share
  }

  dynamic "capacity_provider_strategy" {
    for_each = var.is_single || var.spot_share == 0 ? [] : [var.spot_share]

    content {
      capacity_provider = "FARGATE_SPOT"
      weight            = capacity_provider_strategy.value
    }
  }

  # New tasks that do not get healthy: the old ones stay.
  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }

  dynamic "alarms" {
    for_each = length(var.rollback_alarms) > 0 ? [var.rollback_alarms] : []

    content {
      alarm_names = alarms.value
      enable      = true
      rollback    = true
    }
  }

  network_configuration {
    subnets          = var.subnet_ids
    security_groups  = [var.security_group_id]
    assign_public_ip = false
  }

  dynamic "load_balancer" {
    for_each = var.target_groups

    content {
      target_group_arn = load_balancer.value
      container_name   = var.task.name
      container_port   = var.task.ports.calls
    }
  }

  service_connect_configuration {
    enabled   = true
    namespace = var.namespace_arn

    dynamic "service" {
      for_each = [for port in [try(var.task.ports.peers, null)] : port if port != null]

      content {
        port_name      = "peers"
        discovery_name = var.task.name

        client_alias {
          dns_name = var.task.name
          port     = service.value
        }

        # Streams that are silent for long are no dead ones.
        timeout {
          idle_timeout_seconds = 3600
        }
      }
    }

    log_configuration {
      log_driver = "awslogs"
      options = {
        "awslogs-group"         = module.task.log_group_name
        "awslogs-region"        = var.task.region
        "awslogs-stream-prefix" = "mesh"
      }
    }
  }

  lifecycle {
    ignore_changes = [desired_count] # Scaling decides.
  }
}

resource "aws_appautoscaling_target" "this" {
  count = var.tasks_max > var.tasks_min ? 1 : 0

  service_namespace  = "ecs"
  resource_id        = "service/${var.cluster_name}/${aws_ecs_service.this.name}"
  scalable_dimension = "ecs:service:DesiredCount"
  min_capacity       = var.tasks_min
  max_capacity       = var.tasks_max
}

resource "aws_appautoscaling_policy" "this" {
  for_each = var.tasks_max > var.tasks_min ? {
    cpu    = { metric = "ECSServiceAverageCPUUtilization", target = var.cpu_target }
    memory = { metric = "ECSServiceAverageMemoryUtilization", target = 75 }
  } : {}

  name               = "${var.task.prefix}-${var.task.name}-${each.key}"
  policy_type        = "TargetTrackingScaling"
  service_namespace  = aws_appautoscaling_target.this[0].service_namespace
  resource_id        = aws_appautoscaling_target.this[0].resource_id
  scalable_dimension = aws_appautoscaling_target.this[0].scalable_dimension

  target_tracking_scaling_policy_configuration {
    target_value       = each.value.target
    scale_out_cooldown = 60
    scale_in_cooldown  = 300

    predefined_metric_specification {
      predefined_metric_type = each.value.metric
    }
  }
}
