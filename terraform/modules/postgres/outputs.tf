output "id" {
  description = "Identifier of the primary."
  value       = aws_db_instance.primary.identifier
}

output "arn" {
  description = "ARN of the primary."
  value       = aws_db_instance.primary.arn
}

output "address" {
  description = "Host of the primary itself; after a Multi-AZ failover the same name leads to the other."
  value       = aws_db_instance.primary.address
}

output "replicas" {
  description = "Host of each replica by its name."
  value       = { for name, replica in aws_db_instance.replica : name => replica.address }
}

output "replica_ids" {
  description = "Identifier of each replica by its name."
  value       = { for name, _ in local.replicas : name => local.names[name] }
}

output "admin_secret_arn" {
  description = "Secret of the administrator: username and password."
  value       = aws_secretsmanager_secret.admin.arn
}

output "monitoring_role_arn" {
  description = "Role with which instances tell of themselves; it is of no region."
  value       = aws_iam_role.monitoring.arn
}
