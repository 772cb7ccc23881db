"""Diffusion as functions: schedule, noise, guidance and sampling around any callable denoiser."""
