"""The paper's claims (arXiv 2501.09532, Figs. 1 to 4), measured and drawn.

`sources` says what is asked, `measure` measures, `tables` makes rows of it, `figures` and
`captions` draw and describe the rows, `report` writes the files. Nothing that draws measures, and
nothing that measures draws.
"""
