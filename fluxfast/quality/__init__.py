"""Image quality: how much an optimization changes the images, and whether that is allowed."""
