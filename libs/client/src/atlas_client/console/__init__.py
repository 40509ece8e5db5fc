"""The operator's console: a page that shows the platform, and changes nothing."""
