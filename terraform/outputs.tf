output "endpoint" {
  description = "Name of the load balancer: the clients' name is to be an alias of it."
  value       = module.ingress.dns_name
}

output "repositories" {
  description = "Where images are pushed to."
  value       = module.registry.urls
}

output "plugin_bucket" {
  description = "Where Debezium's zip is put."
  value       = module.plugin_bucket.id
}

output "trust_secret_arn" {
  description = "Secret that gets the PEM of trusted authorities, once, by hand."
  value       = module.secrets.trust_arn
}

output "pki_secret_arns" {
  description = "Secrets that get each service's certificate, key and authority."
  value       = module.secrets.pki_arns
}

output "jobs" {
  description = "What aws ecs run-task needs for the job of migrations."
  value = {
    cluster         = module.cluster.name
    migrations      = module.migrations.task_definition_arn
    subnets         = module.network.private_subnet_ids
    security_groups = [module.network.security_group_ids["migrations"]]
  }
}

output "environments" {
  description = "Variables of each process, without secrets, and the names of those that come from secrets."
  value = merge(
    { for name, service in module.service : name => { variables = service.environment, secrets = service.secret_names } },
    {
      migrations  = { variables = module.migrations.environment, secrets = module.migrations.secret_names }
      maintenance = { variables = module.maintenance.environment, secrets = module.maintenance.secret_names }
    },
  )
}

output "images" {
  description = "Image of each service."
  value       = { for name, service in module.service : name => service.image }
}

output "task_roles" {
  description = "Role that each process works with in AWS."
  value = merge(
    { for name, service in module.service : name => service.task_role_name },
    { migrations = module.migrations.task_role_name, maintenance = module.maintenance.task_role_name },
  )
}

output "alarms" {
  description = "Names of all alarms."
  value       = module.observability.alarm_names
}

output "dr_replica" {
  description = "Host of the replica in the second region; null if there is none."
  value       = one(module.standby[*].replica_address)
}
