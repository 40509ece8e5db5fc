variable "name" {
  description = "Prefix of the queues, as atlas-prod."
  type        = string
}

variable "queues" {
  description = "Queues that have a dead-letter queue: how long a message may be worked on, and how often."
  type = map(object({
    visibility_seconds = number
    receives_max       = number
  }))
}

variable "kms_key_arn" {
  description = "Key of the messages."
  type        = string
}

variable "account_id" {
  description = "The account whose principals may use the queues."
  type        = string
}
