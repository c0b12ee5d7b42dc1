"""The playground in a browser: one image, one question, every token beside a few of them."""
