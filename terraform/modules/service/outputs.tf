output "name" {
  description = "Name of the ECS service, and under which others find it."
  value       = aws_ecs_service.this.name
}

output "image" {
  description = "The image that it runs."
  value       = var.task.image
}

output "task_role_name" {
  description = "Role that the process works with."
  value       = module.task.task_role_name
}

output "environment" {
  description = "Its variables, without secrets."
  value       = var.task.environment
}

output "secret_names" {
  description = "Names of the variables that come from secrets."
  value       = keys(var.task.secrets)
}
