variable "name" {
  description = "Prefix of all names, as atlas-prod."
  type        = string
}

variable "region" {
  description = "The region."
  type        = string
}

variable "account_id" {
  description = "The account that may publish alarms."
  type        = string
}

variable "namespace" {
  description = "Namespace of the platform's own metrics."
  type        = string
}

variable "secrets_key_arn" {
  description = "Key of the collector's configuration."
  type        = string
}

variable "logs_key_arn" {
  description = "Key of logs and of what is published."
  type        = string
}

variable "log_days" {
  description = "How long metrics' log lines are kept; metrics themselves stay 15 months."
  type        = number
}

variable "subscribers" {
  description = "Who hears of alarms, by severity (page, ticket): protocol and endpoint as SNS has them."
  type = map(object({
    severity = string
    protocol = string
    endpoint = string
  }))

  validation {
    condition     = alltrue([for subscriber in values(var.subscribers) : contains(["page", "ticket"], subscriber.severity)])
    error_message = "severity is page or ticket."
  }
}

variable "alarms" {
  description = "Alarms on a metric, or on an expression over several. A page is for now, a ticket for working hours."
  type = map(object({
    description = string
    severity    = string
    threshold   = number
    comparison  = optional(string, "GreaterThanThreshold")
    period_s    = optional(number, 60)
    periods     = optional(number, 3)
    datapoints  = optional(number)
    missing     = optional(string, "breaching")
    expression  = optional(string)
    metrics = map(object({
      namespace  = string
      name       = string
      dimensions = map(string)
      stat       = string
    }))
  }))

  validation {
    condition     = alltrue([for alarm in values(var.alarms) : contains(["page", "ticket"], alarm.severity)])
    error_message = "severity is page or ticket."
  }

  validation {
    condition     = alltrue([for alarm in values(var.alarms) : alarm.expression != null || length(alarm.metrics) == 1])
    error_message = "several metrics need an expression."
  }
}

variable "objectives" {
  description = "Availability that a service owes its callers, as 0.999: the error budget whose burning alarms."
  type        = map(number)

  validation {
    condition     = alltrue([for objective in values(var.objectives) : objective > 0.5 && objective < 1])
    error_message = "an objective is a share between 0.5 and 1, as 0.999."
  }
}

variable "dashboards" {
  description = "Dashboards: their bodies as JSON."
  type        = map(string)
}
