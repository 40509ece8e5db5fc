variable "name" {
  description = "Prefix of the repositories, as atlas-prod."
  type        = string
}

variable "images" {
  description = "Images that have a repository, as query."
  type        = set(string)
}

variable "kms_key_arn" {
  description = "Key of the layers."
  type        = string
}
