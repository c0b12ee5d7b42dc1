"""Models and what they read: loading, processors, images, prompts, answers."""
