locals {
  full_name   = "${var.prefix}-${var.name}"
  trust_dir   = dirname(var.trust.path)
  pki_secrets = var.pki_secret_arn == null ? [] : [var.pki_secret_arn]
  secret_ids  = distinct(concat([var.trust.secret_arn], local.pki_secrets, [for value in values(var.secrets) : join(":", slice(split(":", value), 0, 7))]))

  logs = {
    logDriver = "awslogs"
    options = {
      "awslogs-group"         = aws_cloudwatch_log_group.this.name
      "awslogs-region"        = var.region
      "awslogs-stream-prefix" = var.name
      # A log that cannot be sent is dropped, the process goes on.
      "mode"            = "non-blocking"
      "max-buffer-size" = "8m"
    }
  }

  trust_mount = { sourceVolume = "trust", containerPath = local.trust_dir, readOnly = true }
  file_mount  = var.mount == null ? [] : [{ sourceVolume = "files", containerPath = var.mount.path, readOnly = false }]
  variables   = [for name, value in var.environment : { name = name, value = value }]
  secrets     = [for name, value in var.secrets : { name = name, valueFrom = value }]

  # Writes what certificates are checked with, and the task's own. Volumes belong to root, so this alone runs as root.
  trust_container = {
    name                   = "trust"
    image                  = var.image
    essential              = false
    user                   = "0"
    readonlyRootFilesystem = true
    entryPoint             = ["python", "-c"]
    command                = [file("${path.module}/files.py")]
    environment            = [{ name = "TRUST_PATH", value = var.trust.path }]
    secrets = concat(
      [{ name = "TRUST_PEM", valueFrom = var.trust.secret_arn }],
      [for arn in local.pki_secrets : { name = "PKI", valueFrom = arn }],
    )
    mountPoints      = [{ sourceVolume = "trust", containerPath = local.trust_dir, readOnly = false }]
    logConfiguration = local.logs
  }

  main_container = merge(
    {
      name                   = var.name
      image                  = var.image
      essential              = true
      user                   = "10001:10001"
      readonlyRootFilesystem = true
      command                = var.command
      environment            = local.variables
      secrets                = local.secrets
      stopTimeout            = var.stop_seconds
      mountPoints            = concat([local.trust_mount], local.file_mount)
      linuxParameters        = { initProcessEnabled = true }
      logConfiguration       = local.logs
      dependsOn = concat(
        [{ containerName = "trust", condition = "SUCCESS" }],
        var.collector == null ? [] : [{ containerName = "collector", condition = "START" }],
      )
    },
    { for key, value in { entryPoint = var.entry_point } : key => value if value != null },
    { for key, value in {
      # No protocol is named: between the ends is TLS, which a proxy is not to open.
      portMappings = [
        for name in ["calls", "health", "peers"] :
        { name = name, containerPort = var.ports[name], protocol = "tcp" } if try(var.ports[name], null) != null
      ]
      # ECS does not look at the image's own check. Ready, not merely alive.
      healthCheck = {
        command     = ["CMD", "python", "-c", file("${path.module}/health.py")]
        interval    = 10
        timeout     = 5
        retries     = 3
        startPeriod = 60
      }
    } : key => value if var.ports != null },
  )

  collector_containers = var.collector == null ? [] : [{
    name                   = "collector"
    image                  = var.collector.image
    essential              = false # Without it nothing is measured; calls are answered all the same.
    user                   = "10001:10001"
    readonlyRootFilesystem = true
    cpu                    = 64
    memoryReservation      = 128
    environment            = []
    secrets                = [{ name = "AOT_CONFIG_CONTENT", valueFrom = var.collector.parameter_arn }]
    mountPoints            = []
    logConfiguration       = local.logs
  }]
}

resource "aws_cloudwatch_log_group" "this" {
  name              = "/atlas/${var.prefix}/${var.name}"
  retention_in_days = var.log_days
  kms_key_id        = var.logs_key_arn
}

resource "aws_ecs_task_definition" "this" {
  family                   = local.full_name
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = tostring(var.cpu)
  memory                   = tostring(var.memory)
  execution_role_arn       = aws_iam_role.execution.arn
  task_role_arn            = aws_iam_role.task.arn
  container_definitions    = jsonencode(concat([local.trust_container], [local.main_container], local.collector_containers))

  runtime_platform {
    operating_system_family = "LINUX"
    cpu_architecture        = "X86_64"
  }

  volume {
    name = "trust"
  }

  dynamic "volume" {
    for_each = var.mount == null ? [] : [var.mount]

    content {
      name = "files"

      efs_volume_configuration {
        file_system_id     = volume.value.file_system_id
        transit_encryption = "ENABLED"

        authorization_config {
          access_point_id = volume.value.access_point_id
          iam             = "ENABLED"
        }
      }
    }
  }
}

# ---- Two roles: with one ECS starts the task, with the other the process works

data "aws_iam_policy_document" "trust" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ecs-tasks.amazonaws.com"]
    }
  }
}

data "aws_iam_policy_document" "execution" {
  # Knows no resources.
  statement {
    sid       = "Registry"
    actions   = ["ecr:GetAuthorizationToken"]
    resources = ["*"]
  }

  statement {
    sid       = "Images"
    actions   = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
    resources = var.repository_arns
  }

  statement {
    sid       = "Logs"
    actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]
    resources = ["${aws_cloudwatch_log_group.this.arn}:*"]
  }

  statement {
    sid       = "Secrets"
    actions   = ["secretsmanager:GetSecretValue"]
    resources = local.secret_ids
  }

  statement {
    sid       = "TheirKey"
    actions   = ["kms:Decrypt"]
    resources = [var.secrets_key_arn]

    condition {
      test     = "StringEquals"
      variable = "kms:ViaService"
      values   = ["secretsmanager.${var.region}.amazonaws.com", "ssm.${var.region}.amazonaws.com"]
    }
  }

  dynamic "statement" {
    for_each = var.collector == null ? [] : [var.collector.parameter_arn]

    content {
      sid       = "CollectorConfiguration"
      actions   = ["ssm:GetParameters"]
      resources = [statement.value]
    }
  }
}

resource "aws_iam_role" "execution" {
  name               = "${local.full_name}-execution"
  assume_role_policy = data.aws_iam_policy_document.trust.json
}

resource "aws_iam_role_policy" "execution" {
  name   = "start"
  role   = aws_iam_role.execution.id
  policy = data.aws_iam_policy_document.execution.json
}

resource "aws_iam_role" "task" {
  name               = "${local.full_name}-task"
  assume_role_policy = data.aws_iam_policy_document.trust.json
}

resource "aws_iam_role_policy" "task" {
  for_each = var.policies

  name   = each.key
  role   = aws_iam_role.task.id
  policy = each.value
}

data "aws_iam_policy_document" "telemetry" {
  count = var.collector == null ? 0 : 1

  # Traces know no resources.
  statement {
    sid       = "Traces"
    actions   = ["xray:PutTraceSegments", "xray:PutTelemetryRecords"]
    resources = ["*"]
  }

  statement {
    sid       = "Metrics"
    actions   = ["logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"]
    resources = [var.collector.log_group_arn, "${var.collector.log_group_arn}:*"]
  }
}

resource "aws_iam_role_policy" "telemetry" {
  count = var.collector == null ? 0 : 1

  name   = "telemetry"
  role   = aws_iam_role.task.id
  policy = data.aws_iam_policy_document.telemetry[0].json
}

data "aws_iam_policy_document" "files" {
  count = var.mount == null ? 0 : 1

  statement {
    actions   = ["elasticfilesystem:ClientMount", "elasticfilesystem:ClientWrite"]
    resources = [var.mount.file_system_arn]

    condition {
      test     = "StringEquals"
      variable = "elasticfilesystem:AccessPointArn"
      values   = [var.mount.access_point_arn]
    }
  }
}

resource "aws_iam_role_policy" "files" {
  count = var.mount == null ? 0 : 1

  name   = "files"
  role   = aws_iam_role.task.id
  policy = data.aws_iam_policy_document.files[0].json
}
