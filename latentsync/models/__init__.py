"""Networks: whatever has parameters lives here."""
