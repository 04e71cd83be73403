"""T5 models in Hugging Face's form and in T5X's, each made from the other."""
