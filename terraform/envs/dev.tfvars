environment  = "dev"
region       = "eu-central-1"
dr_region    = "eu-west-1"
zones        = ["eu-central-1a", "eu-central-1b", "eu-central-1c"]
dr_zones     = ["eu-west-1a", "eu-west-1b", "eu-west-1c"]
owner        = "telemetry"
cost_center  = "telemetry-dev"
domain       = "telemetry.dev.atlas.example"
client_cidrs = ["10.0.0.0/12"]

issuer = {
  jwks     = "https://login.dev.atlas.example/keys"
  name     = "https://login.dev.atlas.example"
  audience = "atlas"
  cidrs    = ["10.1.0.0/16"]
}

image_tags = {
  ingest         = "0.1.0"
  hotcache       = "0.1.0"
  query          = "0.1.0"
  cdc-reconciler = "0.1.0"
  cdc-redshift   = "0.1.0"
  db             = "0.1.0"
  collector      = "0.43.3"
}

debezium_plugin = {
  key     = "debezium-postgres-3.2.zip"
  version = "set-after-the-upload"
}
