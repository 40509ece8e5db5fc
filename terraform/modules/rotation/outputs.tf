output "state_machine_arn" {
  description = "What restarts services after a rotation."
  value       = aws_sfn_state_machine.restart.arn
}
