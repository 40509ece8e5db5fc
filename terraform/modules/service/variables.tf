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
    ports = optional(object({
      calls  = number
      health = number
      peers  = optional(number)
    }))
    environment     = map(string)
    secrets         = map(string)
    secrets_key_arn = string
    trust = object({
      secret_arn = string
      path       = string
    })
    pki_secret_arn = optional(string)
    collector = object({
      image         = string
      parameter_arn = string
      log_group_arn = string
    })
    policies = optional(map(string), {})
    mount = optional(object({
      file_system_id   = string
      file_system_arn  = string
      access_point_id  = string
      access_point_arn = string
      path             = string
    }))
    stop_seconds = optional(number, 30)
    logs_key_arn = string
    log_days     = number
  })
}

variable "cluster_name" {
  description = "Name of the cluster."
  type        = string
}

variable "cluster_arn" {
  description = "Its ARN."
  type        = string
}

variable "namespace_arn" {
  description = "Namespace of Service Connect."
  type        = string
}

variable "subnet_ids" {
  description = "Private subnets."
  type        = list(string)
}

variable "security_group_id" {
  description = "The service's own security group."
  type        = string
}

variable "tasks_min" {
  description = "Tasks that always run."
  type        = number
}

variable "tasks_max" {
  description = "Tasks at most; equal to tasks_min: they are not scaled."
  type        = number

  validation {
    condition     = var.tasks_max >= var.tasks_min
    error_message = "tasks_max is below tasks_min."
  }
}

variable "cpu_target" {
  description = "Percent of CPU that scaling aims at."
  type        = number
  default     = 60
}

variable "is_single" {
  description = "Never two tasks at once: the old one ends before the new one begins."
  type        = bool
  default     = false
}

variable "spot_share" {
  description = "Of ten tasks beyond the first, so many run on Fargate Spot."
  type        = number

  validation {
    condition     = var.spot_share >= 0 && var.spot_share <= 9
    error_message = "spot_share is to be 0 to 9."
  }
}

variable "target_groups" {
  description = "Target groups that clients reach it through; none: it is internal."
  type        = list(string)
  default     = []
}

variable "rollback_alarms" {
  description = "Alarms that undo a deployment."
  type        = set(string)
  default     = []
}
