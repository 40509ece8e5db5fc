output "bootstrap_servers" {
  description = "Brokers for services: SASL/SCRAM over TLS."
  value       = aws_msk_cluster.this.bootstrap_brokers_sasl_scram
}

output "cluster_name" {
  description = "Name of the cluster, for metrics."
  value       = aws_msk_cluster.this.cluster_name
}

output "settings_secret_arns" {
  description = "Secret with librdkafka's settings of each user."
  value       = { for user, secret in aws_secretsmanager_secret.settings : user => secret.arn }
}
