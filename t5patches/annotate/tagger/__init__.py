"""A token-level tagger of unwanted spans, trained on posts with marked characters.

`training.train` trains spaCy's NER on posts as SemEval-2021 Task 5 has them (toxic
spans of Civil Comments); `annotate.toxicity` runs it. A small convolutional network on
CPU: better than a list of words, worse than a large pretrained encoder.
"""
