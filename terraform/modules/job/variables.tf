variable "task" {
  description = "Everything of the task definition: see the variables of ../task."
  type = object({
    prefix          = string
    name            = string
    region          = string
    image           = string
    repository_arns = list(string)
    cpu             = number
    memory          = number
    entry_point     = optional(list(string))
    command         = optional(list(string), [])
    environment     = map(string)
    secrets         = map(string)
    secrets_key_arn = string
    trust = object({
      secret_arn = string
      path       = string
    })
    mount = optional(object({
      file_system_id   = string
      file_system_arn  = string
      access_point_id  = string
      access_point_arn = string
      path             = string
    }))
    logs_key_arn = string
    log_days     = number
  })
}

variable "cluster_arn" {
  description = "The cluster."
  type        = string
}

variable "account_id" {
  description = "The account, for the scheduler's trust."
  type        = string
}

variable "partition" {
  description = "The partition, as aws."
  type        = string
}

variable "subnet_ids" {
  description = "Private subnets."
  type        = list(string)
}

variable "security_group_id" {
  description = "The job's own security group."
  type        = string
}

variable "schedule" {
  description = "When it runs, as rate(1 hour); null: when somebody starts it."
  type        = string
  default     = null
}

variable "schedule_key_arn" {
  description = "Key of the schedule's content."
  type        = string
}
