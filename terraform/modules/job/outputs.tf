output "task_definition_arn" {
  description = "What is started."
  value       = module.task.arn
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
