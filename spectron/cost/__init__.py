"""What a training step costs, by formula, and what chips can do."""
