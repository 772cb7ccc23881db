"""What the drawn heads say: sentences, and their speech with the times of its phonemes."""
