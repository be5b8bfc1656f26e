"""CTC recognisers, with beam search and n-gram language models, and recognisers from transformers."""
