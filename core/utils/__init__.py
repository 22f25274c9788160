"""Utilities of all programs: device, command line, environment, processes, images, videos, options as JSON."""
