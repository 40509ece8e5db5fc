output "role_arns" {
  description = "Secret of each database role; its key password is the password."
  value       = { for role, secret in aws_secretsmanager_secret.role : role => secret.arn }
}

output "token_keys_arn" {
  description = "Secret of the token keys: the JSON object itself."
  value       = aws_secretsmanager_secret.token_keys.arn
}

output "trust_arn" {
  description = "Secret with the PEM of trusted authorities."
  value       = aws_secretsmanager_secret.trust.arn
}

output "pki_arns" {
  description = "Secret of each service's certificate."
  value       = { for service, secret in aws_secretsmanager_secret.pki : service => secret.arn }
}
