def readme(meta, rows, pairs):
    return ""
