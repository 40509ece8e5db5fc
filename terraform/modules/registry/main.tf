resource "aws_ecr_repository" "this" {
  for_each = var.images

  name = "${var.name}/${each.key}"
  # A tag is a release: what ran yesterday under it runs tomorrow.
  image_tag_mutability = "IMMUTABLE"

  image_scanning_configuration {
    scan_on_push = true
  }

  encryption_configuration {
    encryption_type = "KMS"
    kms_key         = var.kms_key_arn
  }
}
