provider "aws" {
  region = var.region

  default_tags {
    tags = local.tags
  }
}

# Where copies of backups go, and the replica that a lost region is answered with.
provider "aws" {
  alias  = "dr"
  region = var.dr_region

  default_tags {
    tags = local.tags
  }
}
