"""Networks: every module with parameters, and the loading of its weights."""
