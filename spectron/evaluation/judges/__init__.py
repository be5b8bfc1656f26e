"""Models that judge recordings and texts: recognisers, language models, speaker encoders, speech quality."""
