output "vpc_id" {
  description = "The VPC."
  value       = aws_vpc.this.id
}

output "private_subnet_ids" {
  description = "Subnets of tasks, endpoints and the load balancer, in the order of the zones."
  value       = [for zone in var.zones : aws_subnet.private[zone].id]
}

output "isolated_subnet_ids" {
  description = "Subnets of the stores, in the order of the zones."
  value       = [for zone in var.zones : aws_subnet.isolated[zone].id]
}

output "security_group_ids" {
  description = "Security groups by name."
  value       = { for name, group in aws_security_group.this : name => group.id }
}
