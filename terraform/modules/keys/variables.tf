variable "name" {
  description = "Prefix of the aliases, as atlas-prod."
  type        = string
}

variable "account_id" {
  description = "The account that owns the keys."
  type        = string
}

variable "partition" {
  description = "The partition of that account, as aws."
  type        = string
}

variable "keys" {
  description = "Keys by purpose, and what AWS uses each for in its own name: services, the service of logs, tasks' disks of an ECS cluster; all else goes through IAM."
  type = map(object({
    description = string
    services    = optional(list(string), [])
    logs        = optional(string)
    cluster     = optional(string)
  }))
}
