"""Tables, figures and pages from run folders: files in, files out, on NumPy and matplotlib alone.

Each file imports from its own row and from those above.

| row | files |
| --- | --- |
| read | `examples`, `evaluations`, `people`, `experiments`, `published` |
| draw | `html`, `sheet`, `charts`, `curves`, `drops`, `overlays`, `panels`, `figures`; `markup`, `gallery`, `tables` |
| measure | `intervals`, `provenance`, `groups`, `scores`, `seeds`, `changes`, `confidence`, `model_card` |
| interventions | `interventions`, `reliance`, `highlights`, `dependence` |
| write | `output`; `run_page`, `comparison`, `page`; `paper_tables`, `paper_figures`, `weight_curves`; `__main__` |
"""
