variable "environment" {
  description = "Which environment this is; decides sizes and protection, see locals.tf."
  type        = string

  validation {
    condition     = contains(["dev", "staging", "prod"], var.environment)
    error_message = "environment is dev, staging or prod."
  }
}

variable "region" {
  description = "Where it runs."
  type        = string
}

variable "dr_region" {
  description = "Where copies of backups are, and what is left when region is lost."
  type        = string

  validation {
    condition     = var.dr_region != var.region
    error_message = "dr_region is to be another region than region: it is for the loss of it."
  }
}

variable "zones" {
  description = "Three availability zones of region."
  type        = list(string)

  validation {
    condition     = length(distinct(var.zones)) == 3
    error_message = "zones is to name three availability zones: Redshift Serverless and MSK ask for three."
  }
}

variable "dr_zones" {
  description = "Three availability zones of dr_region; used where a replica is there."
  type        = list(string)

  validation {
    condition     = length(distinct(var.dr_zones)) == 3
    error_message = "dr_zones is to name three availability zones."
  }
}

variable "owner" {
  description = "Team that answers for it; a tag."
  type        = string
}

variable "cost_center" {
  description = "Who pays; a tag."
  type        = string
}

variable "domain" {
  description = "Name that clients call. A certificate for it is in ACM, an alias of it leads to the output endpoint."
  type        = string
}

variable "client_cidrs" {
  description = "Networks of callers, as 10.0.0.0/8: peered, or behind a VPN. The internet is none of them."
  type        = set(string)

  validation {
    condition = alltrue([
      for cidr in var.client_cidrs :
      can(regex("^(10\\.|172\\.(1[6-9]|2[0-9]|3[01])\\.|192\\.168\\.|100\\.(6[4-9]|[7-9][0-9]|1[01][0-9]|12[0-7])\\.)", cidr))
    ])
    error_message = "client_cidrs are to be private networks."
  }
}

variable "image_tags" {
  description = "Release of each image. Services deploy apart: one tag changes one task definition."
  type = object({
    ingest         = string
    hotcache       = string
    query          = string
    cdc-reconciler = string
    cdc-redshift   = string
    db             = string
    collector      = string
  })
}

variable "debezium_plugin" {
  description = "Debezium's zip in the plugins' bucket: its key, and the version of that object."
  type = object({
    key     = string
    version = string
  })
}

variable "issuer" {
  description = "Who signs callers' tokens: the https address of its keys (its authority is in the trust secret), iss, aud, and the private networks that address is in."
  type = object({
    jwks     = string
    name     = string
    audience = string
    cidrs    = set(string)
  })

  validation {
    condition     = startswith(var.issuer.jwks, "https://")
    error_message = "issuer.jwks is to be an https address: who answers there decides who gets in."
  }
}

variable "alarm_subscribers" {
  description = "Who hears of alarms, by severity (page, ticket): protocol and endpoint as SNS has them."
  type = map(object({
    severity = string
    protocol = string
    endpoint = string
  }))
  default = {}
}

variable "token_active_key" {
  description = "Id of the key that seals tokens; the others only open. See modules/secrets/README.md."
  type        = number
  default     = 1
}

variable "rotation_application" {
  description = "AWS's published function that rotates a PostgreSQL user's password. The id names an account of AWS's."
  type = object({
    id      = string
    version = string
  })
  default = {
    id      = "arn:aws:serverlessrepo:us-east-1:297356227824:applications/SecretsManagerRDSPostgreSQLRotationSingleUser"
    version = "1.1.618"
  }
}

variable "synchronized_standby_slots" {
  description = "Physical slots that logical readers must not overtake; known after the first apply. See modules/postgres/README.md."
  type        = list(string)
  default     = []
}
