"""The streaming doors: WriteStream and WriteArrow."""
