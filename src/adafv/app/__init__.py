"""The playground in a browser: one picture, one question, every token beside a few of them."""
