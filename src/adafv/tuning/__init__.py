"""The method and the smallest budget that hold on a user's own questions."""
