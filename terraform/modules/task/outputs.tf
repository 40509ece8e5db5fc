output "arn" {
  description = "The task definition, with its revision."
  value       = aws_ecs_task_definition.this.arn
}

output "role_arns" {
  description = "Roles that ECS passes on with a task."
  value       = [aws_iam_role.task.arn, aws_iam_role.execution.arn]
}

output "task_role_name" {
  description = "Role that the process works with."
  value       = aws_iam_role.task.name
}

output "log_group_name" {
  description = "Where it logs."
  value       = aws_cloudwatch_log_group.this.name
}

output "container_definitions" {
  description = "The containers, as JSON."
  value       = aws_ecs_task_definition.this.container_definitions
}
