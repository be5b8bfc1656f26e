"""The counting world: utterances of spoken digits joined from single clips."""
