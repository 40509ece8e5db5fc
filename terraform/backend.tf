# Bucket, key and region come from envs/<environment>.s3.tfbackend. The lock is an object beside the state.
terraform {
  backend "s3" {
    encrypt      = true
    use_lockfile = true
  }
}
