variable "name" {
  description = "Name of the cluster and of its namespace, as atlas-prod."
  type        = string
}

variable "kms_key_arn" {
  description = "Key of the tasks' own disks."
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
