locals {
  days = 24 * 60 * 60
}

resource "aws_sqs_queue" "dead" {
  for_each = var.queues

  name                      = "${var.name}-${each.key}-dead"
  kms_master_key_id         = var.kms_key_arn
  message_retention_seconds = 14 * local.days
}

resource "aws_sqs_queue" "this" {
  for_each = var.queues

  name                       = "${var.name}-${each.key}"
  kms_master_key_id          = var.kms_key_arn
  message_retention_seconds  = 4 * local.days # Less than the dead have: their age counts from the first sending.
  visibility_timeout_seconds = each.value.visibility_seconds
  receive_wait_time_seconds  = 20

  redrive_policy = jsonencode({
    deadLetterTargetArn = aws_sqs_queue.dead[each.key].arn
    maxReceiveCount     = each.value.receives_max
  })
}

# Nothing else may throw its dead letters in here.
resource "aws_sqs_queue_redrive_allow_policy" "this" {
  for_each = var.queues

  queue_url = aws_sqs_queue.dead[each.key].url

  redrive_allow_policy = jsonencode({
    redrivePermission = "byQueue"
    sourceQueueArns   = [aws_sqs_queue.this[each.key].arn]
  })
}

data "aws_iam_policy_document" "this" {
  for_each = merge(
    { for queue, made in aws_sqs_queue.this : queue => made.arn },
    { for queue, made in aws_sqs_queue.dead : "${queue}-dead" => made.arn },
  )

  statement {
    sid       = "TlsOnly"
    effect    = "Deny"
    actions   = ["sqs:*"]
    resources = [each.value]

    principals {
      type        = "*"
      identifiers = ["*"]
    }

    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }

  statement {
    sid       = "NobodyElse"
    effect    = "Deny"
    actions   = ["sqs:*"]
    resources = [each.value]

    principals {
      type        = "*"
      identifiers = ["*"]
    }

    condition {
      test     = "StringNotEquals"
      variable = "aws:PrincipalAccount"
      values   = [var.account_id]
    }

    # SQS itself moves what is dead.
    condition {
      test     = "Bool"
      variable = "aws:PrincipalIsAWSService"
      values   = ["false"]
    }
  }
}

resource "aws_sqs_queue_policy" "this" {
  for_each = merge(
    { for queue, made in aws_sqs_queue.this : queue => made.url },
    { for queue, made in aws_sqs_queue.dead : "${queue}-dead" => made.url },
  )

  queue_url = each.value
  policy    = data.aws_iam_policy_document.this[each.key].json
}
