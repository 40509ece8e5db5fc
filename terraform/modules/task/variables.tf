variable "prefix" {
  description = "Prefix of all names, as atlas-prod."
  type        = string
}

variable "name" {
  description = "What runs, as query."
  type        = string
}

variable "region" {
  description = "The region."
  type        = string
}

variable "image" {
  description = "The image, with its tag."
  type        = string
}

variable "repository_arns" {
  description = "Repositories that it may pull from: the image's and the collector's."
  type        = list(string)
}

variable "cpu" {
  description = "CPU units of the task; 1024 are one core."
  type        = number
}

variable "memory" {
  description = "Memory of the task in MiB."
  type        = number
}

variable "entry_point" {
  description = "Instead of the image's; null: the image's."
  type        = list(string)
  default     = null
}

variable "command" {
  description = "Arguments of the entry point."
  type        = list(string)
  default     = []
}

variable "ports" {
  description = "Ports that it serves gRPC on: calls with TLS, health without, other services' calls with client certificates (null: none call it). Null: it serves nothing."
  type = object({
    calls  = number
    health = number
    peers  = optional(number)
  })
  default = null
}

variable "environment" {
  description = "Variables."
  type        = map(string)
}

variable "secrets" {
  description = "Variables from Secrets Manager: ARN, or ARN:key:: for a key of a JSON secret."
  type        = map(string)
}

variable "secrets_key_arn" {
  description = "Key of these secrets."
  type        = string
}

variable "trust" {
  description = "PEM of trusted authorities: the secret it is in, and the path at which the process finds it."
  type = object({
    secret_arn = string
    path       = string
  })
}

variable "pki_secret_arn" {
  description = "JSON secret with its certificate, key and authority, PEM each; they are put beside trust.path as tls.crt, tls.key, ca.crt. Null: it has none."
  type        = string
  default     = null
}

variable "collector" {
  description = "The OpenTelemetry collector beside it: image, parameter with its configuration, log group of metrics; null: none."
  type = object({
    image         = string
    parameter_arn = string
    log_group_arn = string
  })
}

variable "policies" {
  description = "Policy documents of what it may do in AWS, by purpose."
  type        = map(string)
  default     = {}
}

variable "mount" {
  description = "A directory that outlives the task; null: none."
  type = object({
    file_system_id   = string
    file_system_arn  = string
    access_point_id  = string
    access_point_arn = string
    path             = string
  })
  default = null
}

variable "stop_seconds" {
  description = "From SIGTERM to SIGKILL; above the service's own grace."
  type        = number
  default     = 30

  validation {
    condition     = var.stop_seconds <= 120
    error_message = "Fargate waits 120 s at most."
  }
}

variable "logs_key_arn" {
  description = "Key of the logs."
  type        = string
}

variable "log_days" {
  description = "How long logs are kept."
  type        = number
}
