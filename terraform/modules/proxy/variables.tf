variable "name" {
  description = "Name of the proxy, as atlas-prod."
  type        = string
}

variable "db_instance_id" {
  description = "Identifier of the primary."
  type        = string
}

variable "secrets" {
  description = "Secret of each database role that may come through the proxy: username and password."
  type        = map(string)
}

variable "secrets_key_arn" {
  description = "Key of these secrets."
  type        = string
}

variable "region" {
  description = "The region, for the key's condition."
  type        = string
}

variable "subnet_ids" {
  description = "Isolated subnets."
  type        = list(string)
}

variable "security_group_id" {
  description = "The proxy's security group."
  type        = string
}

variable "connections_percent" {
  description = "Share of the primary's max_connections; the rest is for direct sessions."
  type        = number

  validation {
    condition     = var.connections_percent >= 1 && var.connections_percent <= 90
    error_message = "connections_percent is to be 1 to 90: lanes, the stream and administrators need sessions of their own."
  }
}

variable "log_days" {
  description = "How long logs are kept."
  type        = number
}

variable "logs_key_arn" {
  description = "Key of the logs."
  type        = string
}
