# ---- Collecting

resource "aws_cloudwatch_log_group" "metrics" {
  name              = "/atlas/${var.name}/metrics"
  retention_in_days = var.log_days
  kms_key_id        = var.logs_key_arn
}

resource "aws_ssm_parameter" "collector" {
  name        = "/${var.name}/collector"
  description = "Configuration of the OpenTelemetry collector beside each task."
  type        = "SecureString"
  key_id      = var.secrets_key_arn
  tier        = "Intelligent-Tiering"

  value = templatefile("${path.module}/collector.yaml.tftpl", {
    region    = var.region
    namespace = var.namespace
    log_group = aws_cloudwatch_log_group.metrics.name
  })
}

# ---- Telling

resource "aws_sns_topic" "this" {
  for_each = toset(["page", "ticket"])

  name              = "${var.name}-${each.key}"
  kms_master_key_id = var.logs_key_arn
}

data "aws_iam_policy_document" "topic" {
  for_each = aws_sns_topic.this

  statement {
    sid       = "Alarms"
    actions   = ["sns:Publish"]
    resources = [each.value.arn]

    principals {
      type        = "Service"
      identifiers = ["cloudwatch.amazonaws.com", "backup.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [var.account_id]
    }
  }
}

resource "aws_sns_topic_policy" "this" {
  for_each = aws_sns_topic.this

  arn    = each.value.arn
  policy = data.aws_iam_policy_document.topic[each.key].json
}

resource "aws_sns_topic_subscription" "this" {
  for_each = var.subscribers

  topic_arn = aws_sns_topic.this[each.value.severity].arn
  protocol  = each.value.protocol
  endpoint  = each.value.endpoint
}

# ---- Alarms

resource "aws_cloudwatch_metric_alarm" "this" {
  for_each = var.alarms

  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = "${each.value.description} Runbook: ops/runbooks/${split("-", each.key)[0]}.md"
  comparison_operator = each.value.comparison
  threshold           = each.value.threshold
  evaluation_periods  = each.value.periods
  datapoints_to_alarm = coalesce(each.value.datapoints, each.value.periods)
  # A publisher that died is the worst news: missing data is bad data, unless an alarm says otherwise.
  treat_missing_data = each.value.missing
  alarm_actions      = [aws_sns_topic.this[each.value.severity].arn]
  ok_actions         = [aws_sns_topic.this[each.value.severity].arn]

  dynamic "metric_query" {
    for_each = each.value.metrics

    content {
      id          = metric_query.key
      return_data = each.value.expression == null

      metric {
        namespace   = metric_query.value.namespace
        metric_name = metric_query.value.name
        dimensions  = metric_query.value.dimensions
        stat        = metric_query.value.stat
        period      = each.value.period_s
      }
    }
  }

  dynamic "metric_query" {
    for_each = each.value.expression == null ? [] : [each.value.expression]

    content {
      id          = "result"
      label       = each.key
      expression  = metric_query.value
      return_data = true
    }
  }
}

# ---- Error budgets: how fast they burn, over a long window and a short one that ends the alarm soon after the fault.
# 14.4 times as fast spends 2 % of a month's budget in an hour, 6 times 5 % in six.

locals {
  bad_codes = ["INTERNAL", "UNKNOWN", "UNAVAILABLE", "DATA_LOSS", "DEADLINE_EXCEEDED"]
  windows = {
    fast-long  = { burn = "fast", period_s = 3600, factor = 14.4 }
    fast-short = { burn = "fast", period_s = 300, factor = 14.4 }
    slow-long  = { burn = "slow", period_s = 21600, factor = 6 }
    slow-short = { burn = "slow", period_s = 1800, factor = 6 }
  }
  burns = merge([
    for service, objective in var.objectives : {
      for window, rule in local.windows : "${service}-${window}" => merge(rule, { service = service, budget = 1 - objective })
    }
  ]...)
}

resource "aws_cloudwatch_metric_alarm" "burn" {
  for_each = local.burns

  alarm_name          = "${var.name}-ErrorBudget-${each.key}"
  alarm_description   = "Part of a composite alarm: failed calls of ${each.value.service} in ${each.value.period_s} s."
  comparison_operator = "GreaterThanThreshold"
  # Through text: products of fractions have digits that come back from AWS as others, and no plan would be empty.
  threshold          = tonumber(format("%.6f", each.value.factor * each.value.budget))
  evaluation_periods = 1
  # No calls are no failed calls; that nobody publishes, other alarms say.
  treat_missing_data = "notBreaching"

  dynamic "metric_query" {
    for_each = { for code in local.bad_codes : lower(code) => code }

    content {
      id          = metric_query.key
      return_data = false

      metric {
        namespace   = var.namespace
        metric_name = "atlas.rpc.server.duration"
        dimensions  = { "service.name" = each.value.service, code = metric_query.value }
        stat        = "SampleCount"
        period      = each.value.period_s
      }
    }
  }

  metric_query {
    id          = "calls"
    return_data = false

    metric {
      namespace   = var.namespace
      metric_name = "atlas.rpc.server.duration"
      dimensions  = { "service.name" = each.value.service }
      stat        = "SampleCount"
      period      = each.value.period_s
    }
  }

  metric_query {
    id          = "share"
    label       = "share of failed calls"
    expression  = "(${join(" + ", [for code in local.bad_codes : "FILL(${lower(code)}, 0)"])}) / calls"
    return_data = true
  }
}

resource "aws_cloudwatch_composite_alarm" "burn" {
  for_each = merge([
    for service, _ in var.objectives : { for burn in ["fast", "slow"] : "${title(burn)}-${service}" => { service = service, burn = burn } }
  ]...)

  alarm_name        = "${var.name}-ErrorBudgetBurn${each.key}"
  alarm_description = "The error budget of ${each.value.service} burns ${each.value.burn == "fast" ? "14" : "6"} times too fast. Runbook: ops/runbooks/ErrorBudgetBurn${title(each.value.burn)}.md"
  alarm_actions     = [aws_sns_topic.this[each.value.burn == "fast" ? "page" : "ticket"].arn]
  ok_actions        = [aws_sns_topic.this[each.value.burn == "fast" ? "page" : "ticket"].arn]

  alarm_rule = join(" AND ", [
    for window in ["long", "short"] : "ALARM(\"${aws_cloudwatch_metric_alarm.burn["${each.value.service}-${each.value.burn}-${window}"].alarm_name}\")"
  ])
}

# ---- Looking

resource "aws_cloudwatch_dashboard" "this" {
  for_each = var.dashboards

  dashboard_name = "${var.name}-${each.key}"
  dashboard_body = each.value
}
