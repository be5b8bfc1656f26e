"""Speech recognisers: CTC models with beam search and n-gram language models, and models of transformers."""
