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
  environment     = var.task.environment
  secrets         = var.task.secrets
  secrets_key_arn = var.task.secrets_key_arn
  trust           = var.task.trust
  collector       = null
  mount           = var.task.mount
  logs_key_arn    = var.task.logs_key_arn
  log_days        = var.task.log_days
}

locals {
  # Without a revision: a schedule starts the newest.
  family_arn = "arn:${var.partition}:ecs:${var.task.region}:${var.account_id}:task-definition/${var.task.prefix}-${var.task.name}"
}

data "aws_iam_policy_document" "trust" {
  count = var.schedule == null ? 0 : 1

  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["scheduler.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [var.account_id]
    }
  }
}

data "aws_iam_policy_document" "start" {
  count = var.schedule == null ? 0 : 1

  statement {
    sid       = "Start"
    actions   = ["ecs:RunTask"]
    resources = ["${local.family_arn}:*"]

    condition {
      test     = "ArnEquals"
      variable = "ecs:cluster"
      values   = [var.cluster_arn]
    }
  }

  statement {
    sid       = "HandOn"
    actions   = ["iam:PassRole"]
    resources = module.task.role_arns

    condition {
      test     = "StringEquals"
      variable = "iam:PassedToService"
      values   = ["ecs-tasks.amazonaws.com"]
    }
  }

  statement {
    sid       = "Key"
    actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
    resources = [var.schedule_key_arn]
  }
}

resource "aws_iam_role" "scheduler" {
  count = var.schedule == null ? 0 : 1

  name               = "${var.task.prefix}-${var.task.name}-scheduler"
  assume_role_policy = data.aws_iam_policy_document.trust[0].json
}

resource "aws_iam_role_policy" "scheduler" {
  count = var.schedule == null ? 0 : 1

  name   = "start"
  role   = aws_iam_role.scheduler[0].id
  policy = data.aws_iam_policy_document.start[0].json
}

resource "aws_scheduler_schedule" "this" {
  count = var.schedule == null ? 0 : 1

  name                = "${var.task.prefix}-${var.task.name}"
  description         = "Starts the job ${var.task.name}."
  schedule_expression = var.schedule
  kms_key_arn         = var.schedule_key_arn

  flexible_time_window {
    mode                      = "FLEXIBLE"
    maximum_window_in_minutes = 5
  }

  target {
    arn      = var.cluster_arn
    role_arn = aws_iam_role.scheduler[0].arn

    ecs_parameters {
      task_definition_arn = local.family_arn
      launch_type         = "FARGATE"
      propagate_tags      = "TASK_DEFINITION"

      network_configuration {
        subnets          = var.subnet_ids
        security_groups  = [var.security_group_id]
        assign_public_ip = false
      }
    }

    retry_policy {
      maximum_retry_attempts       = 3
      maximum_event_age_in_seconds = 1800
    }
  }

  depends_on = [aws_iam_role_policy.scheduler, module.task]
}
