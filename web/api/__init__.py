"""The HTTP job API, for programs (docs/api.md): its routes share the page's queue, files and limits."""
