"""Corpora on Beam: cut long recordings, label them, select labels, write shards."""
