output "queues" {
  description = "URL and ARN of each queue, and the name of its dead-letter queue."
  value = {
    for queue, made in aws_sqs_queue.this : queue => {
      url       = made.url
      arn       = made.arn
      dead_name = aws_sqs_queue.dead[queue].name
    }
  }
}
