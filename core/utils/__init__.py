"""What programs share: device, command line, environment, processes, images and videos on disk."""
