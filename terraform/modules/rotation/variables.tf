variable "name" {
  description = "Prefix of all names, as atlas-prod."
  type        = string
}

variable "region" {
  description = "The region, for the endpoint of Secrets Manager."
  type        = string
}

variable "account_id" {
  description = "The account."
  type        = string
}

variable "partition" {
  description = "The partition, as aws."
  type        = string
}

variable "application_id" {
  description = "AWS's published rotation of a PostgreSQL user's own password."
  type        = string
}

variable "application_version" {
  description = "Its version."
  type        = string
}

variable "secrets" {
  description = "Secrets to rotate: their ARN, and the ECS services that hold the password and are restarted afterwards."
  type = map(object({
    arn      = string
    services = list(string)
  }))
}

variable "secrets_key_arn" {
  description = "Key of the secrets."
  type        = string
}

variable "days" {
  description = "How old a password may become."
  type        = number
  default     = 30
}

variable "subnet_ids" {
  description = "Private subnets: the function talks to the database and to Secrets Manager's endpoint."
  type        = list(string)
}

variable "security_group_id" {
  description = "The function's security group."
  type        = string
}

variable "cluster_name" {
  description = "ECS cluster of the services."
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
