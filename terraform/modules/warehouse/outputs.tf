output "host" {
  description = "The workgroup's endpoint."
  value       = aws_redshiftserverless_workgroup.this.endpoint[0].address
}

output "workgroup" {
  description = "Name of the workgroup, for metrics."
  value       = aws_redshiftserverless_workgroup.this.workgroup_name
}

output "copy_role_arn" {
  description = "Role that COPY reads the bucket with."
  value       = aws_iam_role.copy.arn
}

output "loader_secret_arn" {
  description = "Secret with the loader's password."
  value       = aws_secretsmanager_secret.loader.arn
}
