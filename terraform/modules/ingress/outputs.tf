output "target_group_arns" {
  description = "Target group of each ECS service that clients reach; usable once its rule stands."
  value       = { for service, group in aws_lb_target_group.this : service => group.arn }
  depends_on  = [aws_lb_listener_rule.this]
}

output "dns_name" {
  description = "Name of the load balancer; the clients' name is to be an alias of it."
  value       = aws_lb.this.dns_name
}

output "arn_suffix" {
  description = "The load balancer in metrics."
  value       = aws_lb.this.arn_suffix
}
