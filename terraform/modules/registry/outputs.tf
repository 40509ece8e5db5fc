output "urls" {
  description = "Repository of each image, to which :tag is added."
  value       = { for image, repository in aws_ecr_repository.this : image => repository.repository_url }
}

output "arns" {
  description = "ARN of each repository."
  value       = { for image, repository in aws_ecr_repository.this : image => repository.arn }
}
