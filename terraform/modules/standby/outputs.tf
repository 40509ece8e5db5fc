output "replica_address" {
  description = "Host of the replica in this region; null if there is none."
  value       = one(aws_db_instance.this[*].address)
}
