"""What several methods do alike, and other rooms ask of them: targets, sketches, directions, training runs, words."""
