output "id" {
  description = "Identifier of the replication group."
  value       = aws_elasticache_replication_group.this.replication_group_id
}

output "url_secret_arn" {
  description = "Secret with ATLAS_VALKEY__URL."
  value       = aws_secretsmanager_secret.url.arn
}

output "members" {
  description = "Names of the nodes, for metrics."
  value = local.is_cluster ? [
    for node in range(local.nodes) :
    format("%s-%04d-%03d", var.name, floor(node / (1 + var.size.replicas)) + 1, node % (1 + var.size.replicas) + 1)
  ] : [for node in range(local.nodes) : format("%s-%03d", var.name, node + 1)]
}
