output "id" {
  description = "The file system."
  value       = aws_efs_file_system.this.id
}

output "arn" {
  description = "ARN of the file system."
  value       = aws_efs_file_system.this.arn
}

output "access_points" {
  description = "Id and ARN of each directory's access point."
  value       = { for directory, point in aws_efs_access_point.this : directory => { id = point.id, arn = point.arn } }
}
