output "collector" {
  description = "What a task needs for its collector."
  value = {
    parameter_arn = aws_ssm_parameter.collector.arn
    log_group_arn = aws_cloudwatch_log_group.metrics.arn
  }
}

output "topic_arns" {
  description = "Topic of each severity."
  value       = { for severity, topic in aws_sns_topic.this : severity => topic.arn }
}

output "alarm_names" {
  description = "Names of all alarms, by the names given here."
  value = merge(
    { for alarm, made in aws_cloudwatch_metric_alarm.this : alarm => made.alarm_name },
    { for alarm, made in aws_cloudwatch_composite_alarm.burn : "ErrorBudgetBurn${alarm}" => made.alarm_name },
  )
}

output "burn_alarm_names" {
  description = "By service: the alarm that undoes a deployment, failed calls of the last five minutes."
  value       = { for service, _ in var.objectives : service => aws_cloudwatch_metric_alarm.burn["${service}-fast-short"].alarm_name }
}
