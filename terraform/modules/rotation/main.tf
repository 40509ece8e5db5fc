resource "aws_serverlessapplicationrepository_cloudformation_stack" "this" {
  name             = "${var.name}-rotation"
  application_id   = var.application_id
  semantic_version = var.application_version
  capabilities     = ["CAPABILITY_IAM", "CAPABILITY_RESOURCE_POLICY"]

  parameters = {
    endpoint            = "https://secretsmanager.${var.region}.amazonaws.com"
    functionName        = "${var.name}-rotation"
    vpcSubnetIds        = join(",", var.subnet_ids)
    vpcSecurityGroupIds = var.security_group_id
    kmsKeyArn           = var.secrets_key_arn
    excludeCharacters   = " %+~`#$&*()|[]{}:;<>?!'/@\"\\,=^."
  }
}

resource "aws_secretsmanager_secret_rotation" "this" {
  for_each = var.secrets

  secret_id           = each.value.arn
  rotation_lambda_arn = "arn:${var.partition}:lambda:${var.region}:${var.account_id}:function:${var.name}-rotation"
  # At once it would fail: the migration job has not set the first passwords yet.
  rotate_immediately = false

  rotation_rules {
    automatically_after_days = var.days
    duration                 = "2h"
  }

  depends_on = [aws_serverlessapplicationrepository_cloudformation_stack.this]
}

# ---- A process has its password from its start: after a rotation its service is restarted, task by task.

resource "aws_cloudwatch_log_group" "restart" {
  name              = "/aws/vendedlogs/states/${var.name}-restart"
  retention_in_days = var.log_days
  kms_key_id        = var.logs_key_arn
}

data "aws_iam_policy_document" "restart_trust" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["states.amazonaws.com", "events.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [var.account_id]
    }
  }
}

locals {
  services    = toset(flatten([for secret in var.secrets : secret.services]))
  ecs         = "arn:${var.partition}:ecs:${var.region}:${var.account_id}"
  machine_arn = "arn:${var.partition}:states:${var.region}:${var.account_id}:stateMachine:${var.name}-restart"
}

data "aws_iam_policy_document" "restart" {
  statement {
    sid       = "Restart"
    actions   = ["ecs:UpdateService"]
    resources = [for service in local.services : "${local.ecs}:service/${var.cluster_name}/${service}"]
  }

  statement {
    sid       = "Begin"
    actions   = ["states:StartExecution"]
    resources = [local.machine_arn]
  }

  # Deliveries of logs are not bound to a resource.
  statement {
    sid = "Log"
    actions = [
      "logs:CreateLogDelivery", "logs:GetLogDelivery", "logs:UpdateLogDelivery", "logs:DeleteLogDelivery",
      "logs:ListLogDeliveries", "logs:PutResourcePolicy", "logs:DescribeResourcePolicies", "logs:DescribeLogGroups",
    ]
    resources = ["*"]
  }

  statement {
    sid       = "Trace"
    actions   = ["xray:PutTraceSegments", "xray:PutTelemetryRecords"]
    resources = ["*"]
  }
}

resource "aws_iam_role" "restart" {
  name               = "${var.name}-restart"
  assume_role_policy = data.aws_iam_policy_document.restart_trust.json
}

resource "aws_iam_role_policy" "restart" {
  name   = "restart"
  role   = aws_iam_role.restart.id
  policy = data.aws_iam_policy_document.restart.json
}

resource "aws_sfn_state_machine" "restart" {
  name     = "${var.name}-restart"
  role_arn = aws_iam_role.restart.arn

  definition = jsonencode({
    Comment = "Restarts the services that hold a password which was just rotated."
    StartAt = "Each"
    States = {
      Each = {
        Type      = "Map"
        ItemsPath = "$.services"
        ItemProcessor = {
          ProcessorConfig = { Mode = "INLINE" }
          StartAt         = "Restart"
          States = {
            Restart = {
              Type       = "Task"
              Resource   = "arn:${var.partition}:states:::aws-sdk:ecs:updateService"
              Parameters = { Cluster = var.cluster_name, "Service.$" = "$", ForceNewDeployment = true }
              Retry      = [{ ErrorEquals = ["States.ALL"], IntervalSeconds = 5, MaxAttempts = 5, BackoffRate = 2 }]
              End        = true
            }
          }
        }
        End = true
      }
    }
  })

  logging_configuration {
    level                  = "ALL"
    include_execution_data = true
    log_destination        = "${aws_cloudwatch_log_group.restart.arn}:*"
  }

  tracing_configuration {
    enabled = true
  }

  depends_on = [aws_iam_role_policy.restart]
}

resource "aws_cloudwatch_event_rule" "rotated" {
  for_each = var.secrets

  name        = "${var.name}-rotated-${replace(each.key, "_", "-")}"
  description = "The password of ${each.key} was rotated."
  event_pattern = jsonencode({
    source      = ["aws.secretsmanager"]
    detail-type = ["AWS Service Event via CloudTrail"]
    detail = {
      eventName           = ["RotationSucceeded"]
      additionalEventData = { SecretId = [each.value.arn] }
    }
  })
}

resource "aws_cloudwatch_event_target" "restart" {
  for_each = var.secrets

  rule     = aws_cloudwatch_event_rule.rotated[each.key].name
  arn      = aws_sfn_state_machine.restart.arn
  role_arn = aws_iam_role.restart.arn
  input    = jsonencode({ services = each.value.services })
}
