variable "name" {
  description = "Prefix of all names, as atlas-prod."
  type        = string
}

variable "region" {
  description = "The region, for the names of endpoint services."
  type        = string
}

variable "cidr" {
  description = "Addresses of the VPC; a /16."
  type        = string

  validation {
    condition     = can(cidrnetmask(var.cidr)) && endswith(var.cidr, "/16")
    error_message = "cidr is to be an IPv4 /16, as 10.40.0.0/16: subnets are cut from it by fixed offsets."
  }
}

variable "zones" {
  description = "Availability zones; a subnet of each kind in each."
  type        = list(string)

  validation {
    condition     = length(var.zones) == 3
    error_message = "zones is to name three availability zones: Redshift Serverless and MSK ask for three."
  }
}

variable "security_groups" {
  description = "Security groups by name, with what they are for. 'endpoints' is always there."
  type        = map(string)
}

variable "flows" {
  description = "Who may open connections to whom: the only rules there are between security groups."
  type = map(object({
    from = string
    to   = string
    port = number
  }))
}

variable "client_flows" {
  description = "Addresses from outside of the VPC (peered, VPN) that may open connections."
  type = map(object({
    to   = string
    cidr = string
    port = number
  }))
  default = {}
}

variable "outside_flows" {
  description = "Addresses outside of the VPC (peered, VPN) that may be connected to."
  type = map(object({
    from = string
    cidr = string
    port = number
  }))
  default = {}
}

variable "aws_clients" {
  description = "Security groups whose members call AWS: through the interface endpoints, and S3 through its gateway."
  type        = set(string)
}

variable "interface_endpoints" {
  description = "AWS services with an interface endpoint, as ecr.api."
  type        = set(string)
}

variable "account_id" {
  description = "The account whose principals the endpoints let through."
  type        = string
}

variable "log_days" {
  description = "How long flow logs are kept."
  type        = number
}

variable "logs_key_arn" {
  description = "Key of the flow logs."
  type        = string
}
