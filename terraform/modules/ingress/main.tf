resource "aws_lb" "this" {
  name                       = var.name
  internal                   = true
  load_balancer_type         = "application"
  subnets                    = var.subnet_ids
  security_groups            = [var.security_group_id]
  drop_invalid_header_fields = true
  enable_deletion_protection = var.protected
  enable_http2               = true
  idle_timeout               = 600 # s; above the silence that WriteStream and WatchEntities allow themselves.

  access_logs {
    bucket  = var.log_bucket_id
    prefix  = "lb"
    enabled = true
  }
}

resource "aws_lb_target_group" "this" {
  for_each = var.routes

  name                          = "${var.name}-${each.key}"
  vpc_id                        = var.vpc_id
  target_type                   = "ip"
  port                          = var.ports.calls
  protocol                      = "HTTPS"
  protocol_version              = "GRPC"
  deregistration_delay          = tostring(var.drain_seconds)
  load_balancing_algorithm_type = "least_outstanding_requests"

  # The answer's status is OK also of a server that says NOT_SERVING; the container's own check reads the answer.
  health_check {
    path                = "/grpc.health.v1.Health/Check"
    port                = tostring(var.ports.health)
    protocol            = "HTTP"
    matcher             = "0"
    interval            = 10
    timeout             = 5
    healthy_threshold   = 2
    unhealthy_threshold = 3
  }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_lb_listener" "this" {
  load_balancer_arn = aws_lb.this.arn
  port              = 443
  protocol          = "HTTPS"
  ssl_policy        = "ELBSecurityPolicy-TLS13-1-2-2021-06"
  certificate_arn   = var.certificate_arn

  # As gRPC clients read it: UNIMPLEMENTED.
  default_action {
    type = "fixed-response"

    fixed_response {
      content_type = "text/plain"
      message_body = "no such service"
      status_code  = "404"
    }
  }
}

resource "aws_lb_listener_rule" "this" {
  for_each = var.routes

  listener_arn = aws_lb_listener.this.arn
  priority     = 10 + index(sort(keys(var.routes)), each.key)

  action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.this[each.key].arn
  }

  condition {
    path_pattern {
      values = each.value
    }
  }
}
