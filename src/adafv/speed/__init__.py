"""How long a pruned prompt takes, stage by stage, against what the arithmetic allows."""
