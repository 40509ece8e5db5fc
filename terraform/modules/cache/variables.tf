variable "name" {
  description = "Name of the replication group, as atlas-prod."
  type        = string
}

variable "engine_version" {
  description = "Version of Valkey."
  type        = string
}

variable "size" {
  description = "Nodes: more than one shard makes a cluster; replicas are of each shard."
  type = object({
    node_type     = string
    shards        = number
    replicas      = number
    snapshot_days = number
  })

  validation {
    condition     = var.size.shards >= 1 && var.size.replicas >= 0 && var.size.replicas <= 5
    error_message = "shards is to be at least 1, replicas 0 to 5."
  }
}

variable "subnet_ids" {
  description = "Isolated subnets."
  type        = list(string)
}

variable "security_group_id" {
  description = "The cache's security group."
  type        = string
}

variable "kms_key_arn" {
  description = "Key of what is stored."
  type        = string
}

variable "secrets_key_arn" {
  description = "Key of the secrets."
  type        = string
}

variable "logs_key_arn" {
  description = "Key of the logs."
  type        = string
}

variable "log_days" {
  description = "How long logs are kept."
  type        = number
}

variable "token_version" {
  description = "Raise it by one for a new AUTH token; then restart hotcache. The old one stays valid until the next."
  type        = number
  default     = 1
}

variable "trust_path" {
  description = "Where clients have the PEM of trusted authorities; for the URL."
  type        = string
}
