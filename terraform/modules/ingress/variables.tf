variable "name" {
  description = "Name of the load balancer, as atlas-prod."
  type        = string
}

variable "vpc_id" {
  description = "The VPC."
  type        = string
}

variable "subnet_ids" {
  description = "Private subnets."
  type        = list(string)
}

variable "security_group_id" {
  description = "The load balancer's security group."
  type        = string
}

variable "certificate_arn" {
  description = "Certificate of the name that clients call."
  type        = string
}

variable "log_bucket_id" {
  description = "Bucket of the access logs."
  type        = string
}

variable "protected" {
  description = "Whether the API refuses to delete the load balancer."
  type        = bool
}

variable "routes" {
  description = "gRPC services by the ECS service that serves them: paths as /atlas.query.v1.QueryService/*."
  type        = map(list(string))

  validation {
    condition     = alltrue([for paths in values(var.routes) : length(paths) <= 5])
    error_message = "a rule takes five paths at most."
  }
}

variable "ports" {
  description = "Ports of the tasks: calls, with TLS; health, without."
  type = object({
    calls  = number
    health = number
  })
}

variable "drain_seconds" {
  description = "How long calls at work may go on at a task that leaves."
  type        = number
}
