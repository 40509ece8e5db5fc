output "endpoint" {
  description = "Host through which pooled connections go."
  value       = aws_db_proxy.this.endpoint
}

output "name" {
  description = "Name of the proxy, for metrics."
  value       = aws_db_proxy.this.name
}
